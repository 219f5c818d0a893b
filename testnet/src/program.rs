//! Programs of ours that run where nothing is installed: two of a few bytes, and
//! the instruments below `src/bin`, built without a need for libraries.
//!
//! A no-op must cost nothing of its own, or a start cannot be measured: so it is
//! one system call, written here as the file that the kernel loads.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Where the programs below are loaded.
const BASE: u64 = 0x40_0000;
/// Sizes of the ELF header and of its one segment's.
const HEADS: u64 = 64 + 56;

/// What the code of a program of a few bytes does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiny {
    /// Exits with 0.
    Noop,
    /// Waits for a signal, for ever.
    Sleeper,
}

impl Tiny {
    #[cfg(target_arch = "x86_64")]
    fn code(self) -> Vec<u8> {
        match self {
            // xor edi,edi; mov eax,231 (exit_group); syscall
            Self::Noop => vec![0x31, 0xff, 0xb8, 231, 0, 0, 0, 0x0f, 0x05],
            // mov eax,34 (pause); syscall; jmp back
            Self::Sleeper => vec![0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7],
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn code(self) -> Vec<u8> {
        // movz xN, #value; svc #0; b back
        let set = |register: u32, value: u32| 0xd280_0000 | value << 5 | register;
        let (call, words): (u32, Vec<u32>) = match self {
            Self::Noop => (94, vec![set(0, 0)]),
            Self::Sleeper => (73, (0..5).map(|register| set(register, 0)).collect()),
        };
        let mut words = words;
        words.extend([set(8, call), 0xd400_0001]);
        let back = (words.len() as u32).wrapping_neg() & 0x03ff_ffff;
        words.push(0x1400_0000 | back);
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    /// The whole file: a static executable of one segment.
    fn elf(self) -> Vec<u8> {
        let code = self.code();
        let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
        let size = HEADS + code.len() as u64;
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
        half(&mut file, 2);
        half(&mut file, machine);
        file.extend(1u32.to_le_bytes());
        for value in [BASE + HEADS, 64, 0] {
            file.extend(value.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for value in [64, 56, 1, 0, 0, 0] {
            half(&mut file, value);
        }
        file.extend(1u32.to_le_bytes());
        file.extend(5u32.to_le_bytes());
        for value in [0, BASE, BASE, size, size, 0x1000] {
            file.extend(value.to_le_bytes());
        }
        file.extend(code);
        file
    }

    /// Writes it as an executable.
    pub fn write(self, path: &Path) -> io::Result<()> {
        fs::write(path, self.elf())?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    }
}

/// Builds an instrument of this package, static, in the release profile.
pub fn build(name: &str) -> io::Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["rustc", "--release", "--quiet", "-p", "testnet", "--bin", name])
        .args(["--message-format=json-render-diagnostics", "--"])
        .args(["-Ctarget-feature=+crt-static", "-Crelocation-model=static"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("cargo cannot build {name}: {}", output.status)));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| io::Error::other(format!("cargo named no binary called {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noop_exits_with_zero_and_the_sleeper_does_not() {
        let dir = env::temp_dir().join(format!("testnet-tiny-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let (noop, sleeper) = (dir.join("noop"), dir.join("sleeper"));
        Tiny::Noop.write(&noop).expect("written");
        Tiny::Sleeper.write(&sleeper).expect("written");
        assert!(Command::new(&noop).status().expect("run").success());
        let mut child = Command::new(&sleeper).spawn().expect("run");
        assert!(child.try_wait().expect("a status").is_none());
        child.kill().expect("killed");
        assert_eq!(child.wait().expect("a status").code(), None);
        fs::remove_dir_all(&dir).expect("removed");
    }
}
