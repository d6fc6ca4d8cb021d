//! File systems that lose power, and that run out of room beneath: ext4 on a loop device. Needs root.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Whether this process may mount. Where it may not, the tests that need it say so and do nothing.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!(
            "not root: no file system can be mounted and no network made, so what takes that is not tried"
        );
    }
    root
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An ext4 of its own, unmounted when dropped.
pub struct LoopDisk {
    folder: TempDir,
    /// What its image lies on, if that is not the disk of this machine.
    small: bool,
}

impl LoopDisk {
    /// With so many MiB of room.
    pub fn new(mib: u64) -> Self {
        Self::make(mib, None)
    }

    /// With so many MiB of room, of which only a part is really there: writing back more than that fails.
    pub fn on_thin_ice(mib: u64, really: u64) -> Self {
        Self::make(mib, Some(really))
    }

    fn make(mib: u64, really: Option<u64>) -> Self {
        let disk = Self { folder: tempfile::tempdir().unwrap(), small: really.is_some() };
        for part in ["below", "mnt"] {
            std::fs::create_dir(disk.folder.path().join(part)).unwrap();
        }
        if let Some(really) = really {
            let size = format!("size={really}m");
            run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &disk.below()]);
        }
        File::create(disk.image()).unwrap().set_len(mib << 20).unwrap();
        // Without lazy initialisation nothing is written behind our back.
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", &disk.image()]);
        disk.mount();
        disk
    }

    fn below(&self) -> String {
        self.folder.path().join("below").display().to_string()
    }

    fn image(&self) -> String {
        format!("{}/image", self.below())
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn mount(&self) {
        run("mount", &["-o", "loop", &self.image(), &self.path().display().to_string()]);
    }

    /// From now on nothing reaches the image, and every write fails.
    pub fn cut(&self) {
        go_down(&self.path());
    }

    /// The power is back: what the image has is what there is. Nobody may have a file of it open, and nobody may have
    /// copied the mount: a process that `ip netns exec` starts meanwhile (`netns.rs`) keeps the file system that went
    /// down alive, and it is that which is mounted again.
    pub fn restore(&self) {
        run("umount", &[&self.path().display().to_string()]);
        self.mount();
    }

    /// Gives the thin ice so many MiB.
    pub fn thicken(&self, mib: u64) {
        run("mount", &["-o", &format!("remount,size={mib}m"), &self.below()]);
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        for (path, mounted) in [(self.path().display().to_string(), true), (self.below(), self.small)] {
            if mounted {
                let _ = Command::new("umount").args(["-l", &path]).output();
            }
        }
    }
}

/// `FS_IOC_SHUTDOWN` without a flush of the file system's own log: what a power cut leaves.
#[allow(unsafe_code)] // One ioctl that reads one number and touches no memory of ours.
fn go_down(path: &Path) {
    const OPCODE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
    const NO_LOG_FLUSH: u32 = 2;
    let file = File::open(path).unwrap();
    // SAFETY: the kernel reads the `u32` that the setter points to, and writes nothing.
    let down = unsafe {
        let setter = rustix::ioctl::Setter::<OPCODE, u32>::new(NO_LOG_FLUSH);
        rustix::ioctl::ioctl(&file, setter)
    };
    down.unwrap();
}
