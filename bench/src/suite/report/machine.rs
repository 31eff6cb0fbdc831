//! Where and of what a run was.

use netns_tests::cmd;
use serde::Serialize;

use super::super::ReportOptions;

/// The machine, the day and the source of a run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) kernel: String,
    /// Its congestion control, which decides much where packets are lost or take long.
    pub(super) tcp: String,
    /// In UTC.
    pub(super) date: String,
    /// With `-dirty` where the working tree differs from it.
    #[serde(skip)]
    pub(super) commit: String,
}

impl Machine {
    /// Where this runs. What cannot be found out is `unknown`.
    pub(super) fn here() -> Machine {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let said = |command: &[&str]| cmd::run(command).ok().map(|text| text.trim().to_owned());
        let unknown =
            |text: Option<String>| text.filter(|t| !t.is_empty()).unwrap_or_else(|| "unknown".to_owned());
        Machine {
            cpu: unknown(model(&cpuinfo)),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: unknown(said(&["uname", "-r"])),
            tcp: unknown(std::fs::read_to_string(CONGESTION_CONTROL).ok().map(|text| text.trim().to_owned())),
            date: unknown(said(&["date", "-u", "+%Y-%m-%d %H:%M"])),
            commit: unknown(said(&["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])),
        }
    }

    /// All of it in one sentence.
    pub(super) fn sentence(&self, options: &ReportOptions) -> String {
        let Machine { cpu, cores, kernel, tcp, date, commit } = self;
        // What a distribution or a host appends says nothing to a reader; the JSON has it.
        let kernel = kernel.split_once('-').map_or(kernel.as_str(), |(version, _)| version);
        let quick = if options.quick { " A quick run: a part of the matrix, short flows." } else { "" };
        format!(
            "{cores} CPUs ({cpu}), Linux {kernel}, TCP by {tcp}, {date} UTC, commit {commit}; {} rounds interleaved, flows of {} s.{quick}",
            options.rounds, options.seconds
        )
    }
}

fn model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// New network namespaces take it over.
const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_model() {
        assert_eq!(model("processor\t: 0\nmodel name\t: AMD EPYC\n").as_deref(), Some("AMD EPYC"));
        let here = Machine::here();
        assert!(here.cores > 0 && here.kernel.contains('.') && here.date.starts_with("20"), "{here:?}");
    }
}
