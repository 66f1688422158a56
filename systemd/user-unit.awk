# Makes a unit for a user's service manager out of the unit for the system's service manager:
#
#   awk -f user-unit.awk UNIT >USER_UNIT
#
# A user's manager has no privileges, so it cannot apply every directive. The table below says which are left out and why, and
# the unit that is made ends with the same list. Comments directly above a directive that is left out go with it.

function omit(condition, names, reason,    each, count, i) {
  count = split(names, each, " ")
  for (i = 1; i <= count; i++) conditions[each[i]] = condition
  omissions++
  omitted_names[omissions] = names
  omitted_reason[omissions] = reason
}

BEGIN {
  omit("always", "User", "a user's manager runs everything as its user")
  omit("always", "DevicePolicy IPAddressDeny", "a user's manager cannot load the BPF programs that enforce them")
  omit("always", "PrivateNetwork PrivateIPC", \
    "ExecReload= cannot join namespaces that belong to the PrivateUsers= of the main process; RestrictAddressFamilies= denies the network")
  omit("without PrivateUsers", \
    "TemporaryFileSystem MountAPIVFS BindReadOnlyPaths CapabilityBoundingSet PrivateDevices PrivateMounts PrivateTmp " \
    "ProtectClock ProtectControlGroups ProtectHome ProtectHostname ProtectKernelLogs ProtectKernelModules " \
    "ProtectKernelTunables ProtectSystem", \
    "they need PrivateUsers=yes, which this service cannot have; without it some are ignored, and the others stop the start")
  print "# Made from the unit for the system's manager; what is left out is listed at the end."
}

{ lines[NR] = $0 }
/^PrivateUsers=yes/ { has_private_users = 1 }

END {
  for (at = 1; at <= NR; at++) {
    line = lines[at]
    name = line
    sub(/=.*/, "", name)
    condition = line ~ /^[A-Za-z]+=/ ? conditions[name] : ""
    if (condition == "always" || (condition == "without PrivateUsers" && !has_private_users)) {
      was_there[name] = 1
      comments = ""
    } else if (line ~ /^#/) {
      comments = comments line "\n"
    } else {
      sub(/^WantedBy=multi-user\.target$/, "WantedBy=default.target", line) # a user's manager has no multi-user.target
      printf "%s%s\n", comments, line
      comments = ""
    }
  }
  printf "%s", comments
  for (at = 1; at <= omissions; at++) {
    count = split(omitted_names[at], each, " ")
    shown = ""
    for (i = 1; i <= count; i++) if (each[i] in was_there) shown = shown (shown == "" ? "" : ", ") each[i] "="
    if (shown != "") printf "# Left out for a user's manager: %s: %s.\n", shown, omitted_reason[at]
  }
}
