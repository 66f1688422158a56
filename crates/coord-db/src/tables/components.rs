//! Component health: who beats, and as which process.

use serde_json::Value;

use crate::payload::{ComponentStarted, ComponentStopped};
use crate::process::{Liveness, ProcessIdentity, boot_id, host_name};
use crate::time::ClockReading;
use crate::{
    ActorId, ComponentId, Database, Error, HealthStatus, NewEvent, ON_EACH_HOST, ReadTx, Result, Timestamp, WriteTx,
    supervisor_of,
};

/// Number of characters of a host's name that are part of an id, or shown.
const MAX_HOST: usize = 40;

row! {
    /// A component's health. `status` is what it says of itself, or heartbeat's verdict on one that no longer beats.
    Component {
        component: String, last_heartbeat: Option<Timestamp>, status: HealthStatus, metadata: Value, pid: Option<i64>,
        pid_start_time: Option<i64>, boot_id: Option<String>, pid_namespace: Option<i64>, host: Option<String>,
        started_at: Option<Timestamp>, version: Option<String>, child_pid: Option<i64>, child_pid_start_time: Option<i64>,
    }
}

impl Component {
    /// The process that it runs as, if recorded.
    #[must_use]
    pub fn identity(&self) -> Option<ProcessIdentity> {
        self.pid.map(|pid| ProcessIdentity {
            pid,
            pid_start_time: self.pid_start_time,
            boot_id: self.boot_id.clone(),
            pid_namespace: self.pid_namespace,
            host: self.host.clone(),
        })
    }

    /// Its name for people: `heartbeat on build-3` where each host has one.
    #[must_use]
    pub fn label(&self) -> String {
        let (name, host) = (supervisor_of(&self.component), self.host.as_deref().map(host_name));
        match host {
            Some(host) if name != self.component => format!("{name} on {}", host.chars().take(MAX_HOST).collect::<String>()),
            _ => self.component.clone(),
        }
    }

    /// True if it has sent a heartbeat in another boot than this host's while this host was up: a machine of the same name.
    fn is_of_namesake(&self, now: Timestamp, clocks: &ClockReading) -> bool {
        let booted_at = now.plus_millis(-clocks.boot_millis);
        // Rows without a host are of earlier versions, which knew one machine. The clocks may be a simulation's.
        let is_other =
            self.host.is_some() && self.boot_id.as_deref().is_some_and(|boot| boot != boot_id() && boot != clocks.boot_id);
        is_other && self.last_heartbeat.is_some_and(|beat| beat > booted_at)
    }

    /// What its last beat says at `now`. A component that has stopped in an orderly way is `unknown`.
    #[must_use]
    pub fn verdict(&self, now: Timestamp, degraded_seconds: i64, dead_seconds: i64) -> HealthStatus {
        match (self.status, self.last_heartbeat) {
            (HealthStatus::Unknown, _) | (_, None) => HealthStatus::Unknown,
            (HealthStatus::Dead, _) => HealthStatus::Dead,
            (_, Some(beat)) => match now.seconds_since(beat) {
                age if age >= dead_seconds => HealthStatus::Dead,
                age if age >= degraded_seconds => HealthStatus::Degraded,
                _ if self.status == HealthStatus::Degraded => HealthStatus::Degraded,
                _ => HealthStatus::Healthy,
            },
        }
    }
}

impl ReadTx<'_> {
    /// Whether the process of a component is alive, by what this host can see; gone if it has none.
    #[must_use]
    pub fn liveness(&self, component: &Component) -> Liveness {
        match component.identity().map_or(Liveness::Gone, |identity| identity.liveness()) {
            Liveness::Gone if component.is_of_namesake(self.now(), &self.clocks()) => Liveness::Unknown,
            liveness => liveness,
        }
    }

    /// All components, by name.
    pub fn components(&self) -> Result<Vec<Component>> {
        self.query(select!(Component, "FROM component_health ORDER BY component"), [], Component::from_row)
    }

    /// One component, if it has ever beaten.
    pub fn component(&self, id: &str) -> Result<Option<Component>> {
        self.query_opt(select!(Component, "FROM component_health WHERE component = ?1"), [id], Component::from_row)
    }

    /// The id of a supervisor here: its name, with this host's if each host that shares the database has one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is no id.
    pub fn supervisor_id(&self, name: &str) -> Result<ComponentId> {
        if name != ON_EACH_HOST || self.engine().server().is_none() || self.host().is_empty() {
            return name.parse();
        }
        let fits = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
        let (host, machine) = self.host().split_once('/').unwrap_or((self.host(), ""));
        let host: String = host.chars().take(MAX_HOST).map(fits).collect();
        format!("{name}.{host}.{machine}").trim_end_matches('.').parse()
    }

    /// Of the components that are a supervisor and have not stopped, the one with the newest heartbeat.
    pub fn newest_beat_of(&self, supervisor: &str) -> Result<Option<Component>> {
        self.query_opt(
            select!(
                Component,
                "FROM component_health
                 WHERE (component = ?1 OR substr(component, 1, length(?1) + 1) = ?1 || '.') AND status <> 'unknown'
                   AND last_heartbeat IS NOT NULL
                 ORDER BY last_heartbeat DESC, component LIMIT 1"
            ),
            [supervisor],
            Component::from_row,
        )
    }

    /// True while a supervisor's heartbeats are recent enough: healthy, or silent only because the machine was suspended.
    pub fn is_responsive(&self, id: &str, degraded_seconds: i64, dead_seconds: i64) -> Result<bool> {
        let Some(row) = self.component(id)? else { return Ok(false) };
        Ok(row.verdict(self.now(), degraded_seconds, dead_seconds) == HealthStatus::Healthy
            || row.status == HealthStatus::Healthy && self.in_clock_grace()?)
    }

    /// The process that runs as this component, unless it is proven gone, silent for long, or the asker itself.
    pub fn running_process(&self, id: &str, asker: &ProcessIdentity) -> Result<Option<ProcessIdentity>> {
        let Some(component) = self.component(id)? else { return Ok(None) };
        if component.status == HealthStatus::Unknown {
            return Ok(None);
        }
        let Some(identity) = component.identity().filter(|identity| identity != asker) else { return Ok(None) };
        Ok(match self.liveness(&component) {
            Liveness::Alive => Some(identity),
            Liveness::Gone => None,
            // Of another namespace or host only the heartbeats are visible.
            Liveness::Unknown => {
                let silence = component.last_heartbeat.map(|beat| self.now().seconds_since(beat));
                silence.is_some_and(|seconds| seconds < self.silent_seconds()).then_some(identity)
            }
        })
    }

    /// Refuses a process that another one has replaced as this component: while it stood still for long it was taken for dead.
    ///
    /// # Errors
    /// [`Error::Replaced`]: what the component has is the other process's, and must not be touched.
    pub fn check_runs_as(&self, id: &ComponentId, process: &ProcessIdentity) -> Result<()> {
        match self.component(id.as_str())?.and_then(|row| row.identity()).filter(|named| named != process) {
            None => Ok(()),
            Some(other) => Err(Error::Replaced { component: id.to_string(), process: other.to_string() }),
        }
    }

    /// Every component that a process other than the asker runs as, with that process.
    pub fn running_components(&self, asker: &ProcessIdentity) -> Result<Vec<(String, ProcessIdentity)>> {
        let mut running = Vec::new();
        for component in self.components()? {
            if let Some(process) = self.running_process(&component.component, asker)? {
                running.push((component.component, process));
            }
        }
        Ok(running)
    }
}

impl Database {
    /// Claims to be the one process that runs as a component, until the connection ends; to be called before
    /// [`WriteTx::start_component`]. Only a server knows who is connected: there, one whose connection has ended is replaced at once, and
    /// one that is silent is thrown out. Costs a few round trips.
    ///
    /// # Errors
    /// [`Error::AlreadyRunning`] if another process runs as it.
    pub fn claim_component(&self, id: &ComponentId, process: &ProcessIdentity) -> Result<()> {
        let (other, row) =
            self.read(|tx| Ok::<_, Error>((tx.running_process(id.as_str(), process)?, tx.component(id.as_str())?)))?;
        if other.as_ref().is_some_and(|other| !other.is_elsewhere()) || self.engine().claim(id.as_str())? {
            return Ok(());
        }
        match other {
            Some(other) => {
                Err(Error::AlreadyRunning { component: id.to_string(), process: other.to_string(), is_elsewhere: true })
            }
            None if row.is_some_and(|row| row.status != HealthStatus::Unknown) => self.engine().seize(id.as_str()),
            None if self.server().is_none() => Ok(()),
            // It has not beaten yet.
            None => Err(Error::AlreadyRunning {
                component: id.to_string(),
                process: "a process that is just starting".to_owned(),
                is_elsewhere: true,
            }),
        }
    }
}

impl WriteTx<'_> {
    /// A process begins to run as a component: takes the row, beats and says so.
    /// True if the one before it did not stop in an orderly way.
    ///
    /// # Errors
    /// [`Error::AlreadyRunning`] if another live process has it.
    pub fn start_component(&self, id: &ComponentId, identity: &ProcessIdentity, version: &str) -> Result<bool> {
        let other = self.running_process(id.as_str(), identity)?;
        // One that is elsewhere and is not connected any more has lost its place.
        if let Some(other) = other.filter(|other| !(other.is_elsewhere() && self.engine().has_claim(id.as_str()))) {
            let is_elsewhere = other.is_elsewhere();
            return Err(Error::AlreadyRunning { component: id.to_string(), process: other.to_string(), is_elsewhere });
        }
        let unclean = self.component(id.as_str())?.is_some_and(|row| row.status != HealthStatus::Unknown);
        self.execute(
            "INSERT INTO component_health (component, last_heartbeat, status, pid, pid_start_time, boot_id, pid_namespace,
               host, started_at, version) VALUES (?1, ?2, 'healthy', ?3, ?4, ?5, ?6, ?7, ?2, ?8)
             ON CONFLICT (component) DO UPDATE SET last_heartbeat = excluded.last_heartbeat, status = 'healthy',
               pid = excluded.pid, pid_start_time = excluded.pid_start_time, boot_id = excluded.boot_id,
               pid_namespace = excluded.pid_namespace, host = excluded.host, started_at = excluded.started_at, version = excluded.version",
            params![
                id,
                self.now(),
                identity.pid,
                identity.pid_start_time,
                identity.boot_id,
                identity.pid_namespace,
                identity.host,
                version
            ],
        )?;
        let payload = ComponentStarted { component: id.to_string(), pid: identity.pid, version: version.to_owned() };
        self.publish(&NewEvent::new(ActorId::trusted(id.as_str()), payload))?;
        Ok(unclean)
    }

    /// Records a heartbeat with the component's status. `metadata` is merged into the existing one.
    ///
    /// # Errors
    /// [`Error::IllegalMove`] if it says anything but `healthy` or `degraded`.
    pub fn beat(&self, id: &ComponentId, status: HealthStatus, metadata: Option<&Value>) -> Result<()> {
        if !status.may_be_said() {
            return Err(Error::illegal("component", id, "alive if it beats", format!("say that it is {status}")));
        }
        self.execute(
            "INSERT INTO component_health (component, last_heartbeat, status, metadata) VALUES (?1, ?2, ?3, coalesce(?4, '{}'))
             ON CONFLICT (component) DO UPDATE SET last_heartbeat = excluded.last_heartbeat, status = excluded.status,
               metadata = json_patch(component_health.metadata, excluded.metadata)",
            params![id, self.now(), status, metadata.map(Value::to_string)],
        )?;
        Ok(())
    }

    /// A beat of the process that runs as a component, as [`WriteTx::beat`].
    ///
    /// # Errors
    /// [`Error::Replaced`] if another process runs as it now.
    pub fn beat_of(&self, id: &ComponentId, process: &ProcessIdentity) -> Result<()> {
        self.check_runs_as(id, process)?;
        self.beat(id, HealthStatus::Healthy, None)
    }

    /// A beat on behalf of a process that another tool drives: as [`WriteTx::beat`], with its identity if it is known.
    pub fn beat_as(&self, id: &ComponentId, identity: Option<&ProcessIdentity>) -> Result<()> {
        self.beat(id, HealthStatus::Healthy, None)?;
        self.execute(
            "UPDATE component_health SET pid = ?2, pid_start_time = ?3, boot_id = ?4, pid_namespace = ?5, host = ?6
             WHERE component = ?1",
            params![
                id,
                identity.map(|identity| identity.pid),
                identity.and_then(|identity| identity.pid_start_time),
                identity.and_then(|identity| identity.boot_id.clone()),
                identity.and_then(|identity| identity.pid_namespace),
                identity.and_then(|identity| identity.host.clone())
            ],
        )?;
        Ok(())
    }

    /// The process that a component runs for its agent, so that a later start can end it.
    pub fn set_child(&self, id: &ComponentId, child: Option<(i64, Option<i64>)>) -> Result<()> {
        self.execute(
            "UPDATE component_health SET child_pid = ?2, child_pid_start_time = ?3 WHERE component = ?1",
            params![id, child.map(|(pid, _)| pid), child.and_then(|(_, start)| start)],
        )?;
        Ok(())
    }

    /// Removes the row of a supervisor that a host no longer needs, if it is still the one that was judged.
    pub fn forget_component(&self, judged: &Component) -> Result<()> {
        self.execute(
            "DELETE FROM component_health WHERE component = ?1 AND status = ?2 AND pid IS NOT DISTINCT FROM ?3",
            params![judged.component, judged.status, judged.pid],
        )?;
        Ok(())
    }

    /// Heartbeat's verdict on a component that no longer beats, if it is still the one that was judged; false if it is not.
    ///
    /// # Errors
    /// [`Error::IllegalMove`] for `unknown`, or for any verdict but `dead` on one that has stopped in an orderly way.
    pub fn judge_component(&self, judged: &Component, verdict: HealthStatus) -> Result<bool> {
        if !judged.status.may_be_judged(verdict) {
            return Err(Error::illegal("component", &judged.component, judged.status, format!("be judged {verdict}")));
        }
        let changed = self.execute(
            "UPDATE component_health SET status = ?2
             WHERE component = ?1 AND last_heartbeat IS NOT DISTINCT FROM ?3 AND pid IS NOT DISTINCT FROM ?4",
            params![judged.component, verdict, judged.last_heartbeat.map(Timestamp::to_sql_text), judged.pid],
        )?;
        if changed > 0 {
            return Ok(true);
        }
        // A beat written without milliseconds, or in a year before 0, is another text for the same moment.
        Ok(self.execute(
            "UPDATE component_health SET status = ?2
             WHERE component = ?1 AND pid IS NOT DISTINCT FROM ?4
               AND (strftime('%Y-%m-%d %H:%M:%f', last_heartbeat) IS NOT DISTINCT FROM ?3 OR last_heartbeat LIKE '-%')",
            params![judged.component, verdict, judged.last_heartbeat.map(Timestamp::to_sql_text), judged.pid],
        )? > 0)
    }

    /// A component ends in an orderly way: its health is `unknown` from now on.
    ///
    /// # Errors
    /// [`Error::NotFound`] for one that has never run; [`Error::IllegalMove`] for one that has stopped already.
    pub fn stop_component(&self, id: &ComponentId, reason: &str) -> Result<()> {
        let row = self.component(id.as_str())?.ok_or_else(|| Error::not_found("component", id))?;
        if row.status == HealthStatus::Unknown {
            return Err(Error::illegal("component", id, "stopped", "stop again"));
        }
        self.execute(
            "UPDATE component_health SET status = 'unknown', last_heartbeat = ?2, pid = NULL, pid_start_time = NULL, child_pid = NULL,
               child_pid_start_time = NULL WHERE component = ?1",
            params![id, self.now()],
        )?;
        let payload = ComponentStopped { component: id.to_string(), reason: reason.to_owned() };
        self.publish(&NewEvent::new(ActorId::trusted(id.as_str()), payload))?;
        Ok(())
    }
}
