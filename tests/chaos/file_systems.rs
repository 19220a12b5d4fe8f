//! Separate file systems for tests: created, mounted, and always removed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::program::is_root;

fn tool(name: &str, words: &[&str]) -> Result<String, String> {
    let output = Command::new(name).args(words).stdin(Stdio::null()).output().map_err(|e| format!("{name}: {e}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{name} {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Prefix of the directories; the process id follows.
const PREFIX: &str = "fastk-mount-";

/// Removes the mounts of killed tests.
fn sweep() {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(point)) = (words.next(), words.next()) else { continue };
        let Some((_, rest)) = point.split_once(PREFIX) else { continue };
        let pid = rest.split('-').next().unwrap_or_default();
        if pid.is_empty() || Path::new("/proc").join(pid).exists() {
            continue;
        }
        let _ = tool("umount", &[point]);
        if device.starts_with("/dev/loop") {
            let _ = tool("losetup", &["-d", device]);
        }
        if let Some(folder) = Path::new(point).parent() {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// A mounted file system; unmounted and detached when dropped.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    device: Option<String>,
    mounted: bool,
    kind: &'static str,
    folder: tempfile::TempDir,
}

impl Mount {
    fn new(kind: &'static str) -> Result<Self, String> {
        if !is_root() {
            return Err("mounting needs root".into());
        }
        sweep();
        let folder = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir();
        let folder = folder.map_err(|e| e.to_string())?;
        let point = folder.path().join("mount");
        std::fs::create_dir(&point).map_err(|e| e.to_string())?;
        Ok(Self { point, device: None, mounted: false, kind, folder })
    }

    /// A file system of this kind and size on a loop device, or why it cannot be created.
    pub fn on_loop(kind: &'static str, bytes: u64) -> Result<Self, String> {
        let mut mount = Self::new(kind)?;
        let image = mount.folder.path().join("image");
        let file = std::fs::File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(bytes).map_err(|e| e.to_string())?;
        let image = image.to_string_lossy().into_owned();
        let force = if kind == "ext4" { "-F" } else { "-f" };
        tool(&format!("mkfs.{kind}"), &["-q", force, &image])?;
        tool("xfs_io", &["-V"])?;
        mount.device = Some(tool("losetup", &["--find", "--show", &image])?);
        mount.again()?;
        Ok(mount)
    }

    /// A file system in memory of this size, or why it cannot be created.
    pub fn in_memory(bytes: u64) -> Result<Self, String> {
        let mut mount = Self::new("tmpfs")?;
        let options = format!("size={bytes}");
        tool("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &mount.point.to_string_lossy()])?;
        mount.mounted = true;
        Ok(mount)
    }

    pub fn point(&self) -> &Path {
        &self.point
    }

    /// A file outside of the file system.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Mounts the loop device.
    pub fn again(&mut self) -> Result<(), String> {
        let device = self.device.clone().unwrap_or_default();
        tool("mount", &["-t", self.kind, &device, &self.point.to_string_lossy()])?;
        self.mounted = true;
        Ok(())
    }

    /// Shuts down the file system like a power cut: no more data reaches the device, not even its journal.
    pub fn cut(&self) {
        tool("xfs_io", &["-x", "-c", "shutdown", &self.point.to_string_lossy()]).unwrap();
    }

    /// Unmounts.
    pub fn away(&mut self) -> Result<(), String> {
        let point = self.point.to_string_lossy().into_owned();
        let mut last = Ok(String::new());
        for _ in 0..100 {
            last = tool("umount", &[&point]);
            if last.is_ok() {
                break;
            }
            // A file may be open for a moment longer.
            std::thread::sleep(Duration::from_millis(20));
        }
        self.mounted = last.is_err();
        last.map(drop)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted && self.away().is_err() {
            let _ = tool("umount", &["-l", &self.point.to_string_lossy()]);
        }
        if let Some(device) = &self.device {
            let _ = tool("losetup", &["-d", device]);
        }
    }
}
