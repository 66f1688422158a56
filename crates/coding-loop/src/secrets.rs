//! Detects secrets by file name and by well-known forms of keys and tokens. Pure.

use std::path::Path;

/// Prefixes of access tokens of services, and the minimum number of characters that follow.
const TOKENS: &[(&str, usize)] = &[
    ("AKIA", 16),
    ("ASIA", 16),
    ("AIza", 35),
    ("ghp_", 36),
    ("gho_", 36),
    ("ghs_", 36),
    ("ghu_", 36),
    ("github_pat_", 40),
    ("glpat-", 20),
    ("npm_", 36),
    ("pypi-", 50),
    ("sk-ant-", 40),
    ("sk-proj-", 40),
    ("sk_live_", 24),
    ("rk_live_", 24),
    ("xoxa-", 20),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("hf_", 34),
];

const PRIVATE_KEY: (&str, &str) = ("-----BEGIN ", "PRIVATE KEY-----");

/// True for a file name that suggests keys or passwords.
pub(crate) fn is_secret_name(file: &Path) -> bool {
    let Some(name) = file.file_name().and_then(|name| name.to_str()) else { return false };
    let name = name.to_ascii_lowercase();
    let is_example = ["example", "sample", "template", "dist", "test"].iter().any(|word| name.ends_with(word));
    let is_env = name == ".env" || name.starts_with(".env.") && !is_example;
    let is_key = ["id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", ".netrc", ".pgpass", ".htpasswd"].contains(&name.as_str());
    is_env || is_key || [".p12", ".pfx", ".keystore", ".jks"].iter().any(|end| name.ends_with(end))
}

/// The secrets in a line, given by their harmless prefixes.
pub(crate) fn find(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(start) = line.find(PRIVATE_KEY.0)
        && line[start..].contains(PRIVATE_KEY.1)
    {
        found.push("a private key".to_owned());
    }
    let fits = |each: char| each.is_ascii_alphanumeric() || each == '_' || each == '-';
    for (prefix, length) in TOKENS {
        for (start, _) in line.match_indices(prefix) {
            if line[..start].chars().next_back().is_some_and(fits) {
                continue;
            }
            let rest = &line[start + prefix.len()..];
            let value = &rest[..rest.find(|each| !fits(each)).unwrap_or(rest.len())];
            // A placeholder is a word or a repeated character.
            let is_varied =
                value.bytes().any(|byte| byte.is_ascii_digit()) && value.bytes().any(|byte| byte.is_ascii_alphabetic());
            if value.len() >= *length && is_varied {
                found.push(format!("{prefix}…"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_forms_are_found_and_masked() {
        assert_eq!(find(&format!("key = \"AKIA{}\"", "ABCDEFGH12345678")), ["AKIA…"]);
        assert_eq!(find(&format!("{}RSA {}", PRIVATE_KEY.0, PRIVATE_KEY.1)), ["a private key"]);
        assert_eq!(find(&format!("x ghp_{} y", "a1".repeat(18))), ["ghp_…"]);
    }

    #[test]
    fn what_only_begins_like_one_is_none() {
        for text in [
            "ghp_short",
            "MAKIAABCDEFGH12345678",
            "AKIAXXXXXXXXXXXXXXXX",
            "sk-ant-your-key-here",
            "hf_model",
            "npm_config_registry",
        ] {
            assert!(find(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn names() {
        for name in [".env", "app/.env.production", "id_rsa", "keys/store.p12"] {
            assert!(is_secret_name(Path::new(name)), "{name}");
        }
        for name in [".env.example", "env", "id_rsa.pub", "src/secrets.rs", ".envrc", ".env.test"] {
            assert!(!is_secret_name(Path::new(name)), "{name}");
        }
    }
}
