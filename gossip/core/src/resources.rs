//! Amounts of what a node has, in whole units: no floats in a ledger.
//!
//! CPU is counted in thousandths of a core, memory in bytes. Addition and
//! subtraction are checked; an amount never wraps and never goes below zero.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Some CPU and memory: a capacity, an ask, or what is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// What a task asks when its user said nothing (DESIGN section 9).
pub const DEFAULT_ASK: Resources = Resources { cpu_milli: 100, memory_bytes: 64 << 20 };

impl Resources {
    /// Whether `ask` fits in this.
    pub fn fits(&self, ask: &Resources) -> bool {
        self.cpu_milli >= ask.cpu_milli && self.memory_bytes >= ask.memory_bytes
    }

    /// The sum, or `None` where it cannot be counted.
    pub fn checked_add(&self, other: &Resources) -> Option<Resources> {
        Some(Resources {
            cpu_milli: self.cpu_milli.checked_add(other.cpu_milli)?,
            memory_bytes: self.memory_bytes.checked_add(other.memory_bytes)?,
        })
    }

    /// What is left after taking `other`, or `None` if it does not fit.
    pub fn checked_sub(&self, other: &Resources) -> Option<Resources> {
        Some(Resources {
            cpu_milli: self.cpu_milli.checked_sub(other.cpu_milli)?,
            memory_bytes: self.memory_bytes.checked_sub(other.memory_bytes)?,
        })
    }

    /// What is left, at least nothing.
    pub fn saturating_sub(&self, other: &Resources) -> Resources {
        Resources {
            cpu_milli: self.cpu_milli.saturating_sub(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
        }
    }

    /// What `ask` lacks here, in words a user understands; `None` if it fits.
    pub fn lacking(&self, ask: &Resources) -> Option<String> {
        let mut lacks = Vec::new();
        if self.cpu_milli < ask.cpu_milli {
            lacks.push(format!("cpu {} < {}", show_cpu(self.cpu_milli), show_cpu(ask.cpu_milli)));
        }
        if self.memory_bytes < ask.memory_bytes {
            lacks.push(format!(
                "memory {} < {}",
                show_bytes(self.memory_bytes),
                show_bytes(ask.memory_bytes)
            ));
        }
        (!lacks.is_empty()).then(|| lacks.join(", "))
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cpu, {}", show_cpu(self.cpu_milli), show_bytes(self.memory_bytes))
    }
}

/// The text given is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not an amount of {of}; write it like {like}")]
pub struct BadAmount {
    given: String,
    of: &'static str,
    like: &'static str,
}

/// Reads `1.5` (cores, as Docker) or `500m` (as Kubernetes) as thousandths of a core.
pub fn parse_cpu(text: &str) -> Result<u64, BadAmount> {
    let bad = || BadAmount { given: text.to_owned(), of: "CPU", like: "2, 0.5 or 500m" };
    if let Some(milli) = text.strip_suffix('m') {
        return milli.parse().map_err(|_not_a_number| bad());
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || part.len() > 3 || !(part.is_empty() || digits(part)) {
        return Err(bad());
    }
    let thousandths: u64 = format!("{part:0<3}").parse().map_err(|_not_a_number| bad())?;
    whole
        .parse::<u64>()
        .ok()
        .and_then(|cores| cores.checked_mul(1000)?.checked_add(thousandths))
        .ok_or_else(bad)
}

/// Reads `512m`, `64MiB`, `1Gi`, `2g`, `1048576` as bytes; all units are powers of 1024, as Docker's.
pub fn parse_bytes(text: &str) -> Result<u64, BadAmount> {
    let bad = || BadAmount { given: text.to_owned(), of: "memory", like: "512m, 64MiB or 1Gi" };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        _ => return Err(bad()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).ok_or_else(bad)
}

/// Cores, with as many digits as matter.
pub fn show_cpu(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Bytes in the largest unit of 1024 that keeps them above one.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..UNITS.len() - 1).take_while(|&u| bytes >> (10 * (u + 1)) > 0).count();
    let whole = bytes >> (10 * unit);
    let tenth = if unit == 0 { 0 } else { (bytes >> (10 * (unit - 1)) & 1023) * 10 / 1024 };
    if tenth == 0 || whole >= 100 {
        format!("{whole}{}", UNITS[unit])
    } else {
        format!("{whole}.{tenth}{}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_docker_and_kubernetes_write_them() {
        for (text, milli) in [("2", 2000), ("0.5", 500), ("1.25", 1250), ("500m", 500)] {
            assert_eq!(parse_cpu(text), Ok(milli), "{text}");
        }
        for text in ["", ".", "x", "-1", "1.2345", "1e3", "0.", "99999999999999999999"] {
            assert_eq!(parse_cpu(text).is_ok(), text == "0.", "{text}");
        }
        for (text, bytes) in [("512m", 512 << 20), ("64MiB", 64 << 20), ("1Gi", 1 << 30), ("7", 7)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "-1", "1x", "99999999999g"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_are_shown_short() {
        assert_eq!(show_cpu(1500), "1.5");
        assert_eq!(show_cpu(4000), "4");
        assert_eq!(show_bytes(64 << 20), "64MiB");
        assert_eq!(show_bytes((1 << 30) + (1 << 29)), "1.5GiB");
        assert_eq!(show_bytes(0), "0B");
    }

    #[test]
    fn a_lack_is_named() {
        let has = Resources { cpu_milli: 500, memory_bytes: 1 << 30 };
        let ask = Resources { cpu_milli: 1000, memory_bytes: 1 << 20 };
        assert_eq!(has.lacking(&ask).as_deref(), Some("cpu 0.5 < 1"));
        assert_eq!(has.lacking(&has), None);
    }
}
