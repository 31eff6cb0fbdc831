//! Sizes, cores and durations as people write and read them.

use std::time::Duration;

const KIB: u64 = 1 << 10;
const UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("KiB", KIB),
    ("MiB", KIB.pow(2)),
    ("GiB", KIB.pow(3)),
    ("TiB", KIB.pow(4)),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads a number of bytes: `256MiB`, `1.5GiB`, `2GB`, `4096`.
///
/// `K`, `M`, `G` alone are refused: to some they are powers of 1000, to others of 1024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim());
    let unit = if unit == "B" { "" } else { unit };
    let factor = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|(_, factor)| *factor)
        .ok_or_else(|| format!("{unit:?} is no unit of size: use KiB, MiB, GiB, TiB, or kB, MB, GB, TB"))?;
    let bytes =
        decimal(number, factor).ok_or_else(|| format!("{text:?} is no size: say for example 256MiB"))?;
    u64::try_from(bytes).map_err(|_| format!("{text:?} is too large"))
}

/// Reads cores as thousandths of one: `0.5`, `2`, `250m`.
pub fn parse_cores(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no number of cores: say for example 0.5, 2 or 250m");
    let milli = match text.strip_suffix('m') {
        Some(milli) => milli.parse().map_err(|_| wrong())?,
        None => decimal(text, 1000).ok_or_else(wrong)?,
    };
    match u32::try_from(milli) {
        Ok(0) => Err("an instance needs some of a core: at least 0.001".to_owned()),
        Ok(milli) => Ok(milli),
        Err(_) => Err(wrong()),
    }
}

/// Reads a length of time: `30s`, `15m`, `1h30m`, `7d`, `500ms`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no length of time: say for example 30s, 15m, 1h30m or 7d");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0u64;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(split);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let millis: u64 = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total = number.checked_mul(millis).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

/// `256 MiB`, `1.5 GiB`, `0 B`.
pub fn size(bytes: u64) -> String {
    let (name, factor) =
        UNITS[1..5].iter().rev().find(|(_, factor)| bytes >= *factor).copied().unwrap_or(("B", 1));
    scaled(bytes as f64 / factor as f64, name)
}

/// `0.5`, `2`, `0.25`: cores from thousandths of one.
pub fn cores(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The same from a number of cores.
pub fn cores_f64(cores: f64) -> String {
    self::cores((cores.clamp(0.0, 1e9) * 1000.0).round() as u64)
}

/// `4.2 Gb/s` from bytes in a second, in powers of ten as links are rated.
pub fn rate(bytes_per_second: f64) -> String {
    let bits = bytes_per_second * 8.0;
    match bits {
        1e9.. => scaled(bits / 1e9, "Gb/s"),
        1e6.. => scaled(bits / 1e6, "Mb/s"),
        1e3.. => scaled(bits / 1e3, "kb/s"),
        _ => scaled(bits.max(0.0).round(), "b/s"),
    }
}

/// `12s`, `3m`, `5h`, `2d`: how long ago, to one unit.
pub fn age(age: Duration) -> String {
    match age.as_secs() {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7_200 => format!("{}m", s / 60),
        s @ 7_200..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

/// `0.25 ms` from microseconds.
pub fn milliseconds(us: u64) -> String {
    format!("{}.{:02} ms", us / 1000, us % 1000 / 10)
}

/// `0.30 %` from parts in a million.
pub fn parts_per_million(ppm: u32) -> String {
    if ppm == 0 { "0 %".to_owned() } else { format!("{}.{:02} %", ppm / 10_000, ppm % 10_000 / 100) }
}

fn scaled(value: f64, unit: &str) -> String {
    if value >= 99.95 || (value - value.round()).abs() < 0.05 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// A decimal number times a factor, exact to the unit (what lies below is cut off).
fn decimal(text: &str, factor: u64) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 12 || whole.len() > 20 {
        return None;
    }
    if text.ends_with('.') {
        return None;
    }
    let mut value = whole.parse::<u128>().ok()? * u128::from(factor);
    if !fraction.is_empty() {
        let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
        value += fraction.parse::<u128>().ok()? * u128::from(factor) / scale;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("512B", Some(512)),
            ("256MiB", Some(256 << 20)),
            ("256 mib", Some(256 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("2GB", Some(2_000_000_000)),
            ("10kB", Some(10_000)),
            ("16777215TiB", Some(16_777_215u64 << 40)),
            ("16777216TiB", None),
            ("256M", None),
            ("", None),
            ("MiB", None),
            ("-1MiB", None),
            ("1.GiB", None),
            (".5GiB", None),
            ("1e3", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(parse_size(text).ok(), bytes, "{text:?}");
        }
        assert!(parse_size("256M").unwrap_err().contains("use KiB, MiB"));
    }

    #[test]
    fn cores_are_read() {
        for (text, milli) in [
            ("0.5", Some(500)),
            ("2", Some(2000)),
            ("250m", Some(250)),
            ("0.001", Some(1)),
            ("0", None),
            ("0.0001", None),
            ("-1", None),
            ("m", None),
            ("two", None),
            ("5000000000", None),
        ] {
            assert_eq!(parse_cores(text).ok(), milli, "{text:?}");
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, millis) in [
            ("30s", Some(30_000)),
            ("1h30m", Some(5_400_000)),
            ("7d", Some(604_800_000)),
            ("500ms", Some(500)),
            ("2min", Some(120_000)),
            ("30", None),
            ("", None),
            ("s", None),
            ("1y", None),
            ("-3s", None),
            ("99999999999999999d", None),
        ] {
            assert_eq!(parse_duration(text).ok(), millis.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(256 << 20), "256 MiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(size(u64::MAX), "16777216 TiB");
        assert_eq!(cores(500), "0.5");
        assert_eq!(cores(2000), "2");
        assert_eq!(cores(1), "0.001");
        assert_eq!(rate(0.0), "0 b/s");
        assert_eq!(rate(125.0), "1 kb/s");
        assert_eq!(rate(550e6), "4.4 Gb/s");
        assert_eq!(age(Duration::from_secs(119)), "119s");
        assert_eq!(age(Duration::from_secs(120)), "2m");
        assert_eq!(age(Duration::from_secs(3 * 86_400)), "3d");
        assert_eq!(milliseconds(254), "0.25 ms");
        assert_eq!(parts_per_million(0), "0 %");
        assert_eq!(parts_per_million(12_345), "1.23 %");
    }
}
