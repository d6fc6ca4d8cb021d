//! Files that commands write: whole under their names, or not there.
//!
//! A plain file is written beside its target, under a random name that is made exclusively and says what it
//! is. It takes the target's place once it is synced. What is no plain file (a device, a pipe) is written
//! straight through and stays what it is. What is unfinished is removed when its value is dropped, and by
//! [`remove_all`] in a process that ends in another way. A SIGKILL leaves it under its telling name.
//!
//! Deliberately absent: going on with a file that was begun earlier.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Follows a random number in the names of unfinished files.
const SUFFIX: &str = ".wmall-part";
/// Bytes of the target's name that a temporary one repeats: file systems allow 255 in all.
const REPEATED: usize = 200;
/// Symbolic links that are followed to a target.
const MAX_LINKS: usize = 40;

/// All that this process has made and not finished.
static UNFINISHED: Mutex<Unfinished> = Mutex::new(Unfinished { ends: false, paths: BTreeSet::new() });

struct Unfinished {
    /// Nothing is begun any more.
    ends: bool,
    paths: BTreeSet<PathBuf>,
}

fn unfinished() -> MutexGuard<'static, Unfinished> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what this process has not finished, and lets it begin nothing more. For a process that ends
/// without dropping its values.
pub fn remove_all() {
    let mut unfinished = unfinished();
    unfinished.ends = true;
    std::mem::take(&mut unfinished.paths).iter().for_each(|path| remove(path));
}

/// Removal is all that can be tried: who drops a value or ends a process has nobody to tell.
fn remove(path: &Path) {
    let _ = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
}

/// A name beside a target, and what stands there until this is dropped.
#[derive(Debug)]
struct Beside(PathBuf);

impl Beside {
    /// Makes something under a name of its own beside the target.
    fn make<T>(target: &Path, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<(Self, T)> {
        let name = target.file_name().ok_or(ErrorKind::IsADirectory)?;
        let path = parent(target).join(temporary_name(name, crate::random::bytes()));
        let mut unfinished = unfinished();
        if unfinished.ends {
            return Err(io::Error::new(ErrorKind::Interrupted, "the process is ending"));
        }
        let made = make(&path)?;
        unfinished.paths.insert(path.clone());
        Ok((Self(path), made))
    }

    /// It has another name now.
    fn forget(self) {
        unfinished().paths.remove(&self.0);
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if unfinished().paths.remove(&self.0) {
            remove(&self.0);
        }
    }
}

fn temporary_name(name: &OsStr, random: [u8; 8]) -> OsString {
    let mut out = OsString::from(".");
    let bytes = name.as_bytes();
    out.push(OsStr::from_bytes(&bytes[..bytes.len().min(REPEATED)]));
    out.push(format!(".{:016x}{SUFFIX}", u64::from_be_bytes(random)));
    out
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The kind of a target, with the links to it followed.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// A plain file, or nothing yet.
    Plain(PathBuf),
    /// Something that has to stay what it is.
    Special(PathBuf),
}

fn kind_of(target: &Path) -> io::Result<Kind> {
    let mut path = target.to_path_buf();
    for _ in 0..MAX_LINKS {
        let name = path.file_name().ok_or(ErrorKind::IsADirectory)?.to_os_string();
        let folder = parent(&path).canonicalize()?;
        path = folder.join(name);
        // An open file: its path may be a plain file's, and that file is another's to replace.
        if folder.starts_with("/proc") {
            return Ok(Kind::Special(path));
        }
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Kind::Plain(path)),
            Err(error) => return Err(error),
            Ok(meta) if meta.is_dir() => return Err(ErrorKind::IsADirectory.into()),
            Ok(meta) if meta.is_file() => return Ok(Kind::Plain(path)),
            Ok(meta) if meta.is_symlink() => path = folder.join(fs::read_link(&path)?),
            Ok(_) => return Ok(Kind::Special(path)),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// Opens what is written straight through. Stdout and stderr go on where
/// they are, as a shell's `>>` wants.
fn open_special(path: &Path) -> io::Result<File> {
    let own = PathBuf::from(format!("/proc/{}/fd", std::process::id()));
    if path.parent() == Some(&own) {
        match path.file_name().and_then(OsStr::to_str) {
            Some("1") => return Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
            Some("2") => return Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
            _ => {}
        }
    }
    OpenOptions::new().write(true).open(path)
}

/// A file that a command writes.
#[derive(Debug)]
pub struct OutFile {
    file: File,
    /// The unfinished file and the one whose place it takes; none if it is written straight through.
    beside: Option<(Beside, PathBuf)>,
}

impl OutFile {
    /// Begins a file that is to be at `target`. Opening a pipe waits for its reader.
    pub fn create(target: &Path) -> io::Result<Self> {
        let target = match kind_of(target)? {
            Kind::Special(path) => return Ok(Self { file: open_special(&path)?, beside: None }),
            Kind::Plain(path) => path,
        };
        let new = |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let (beside, file) = Beside::make(&target, new)?;
        // The rights of what is replaced stay as they were.
        if let Ok(meta) = fs::metadata(&target) {
            file.set_permissions(Permissions::from_mode(meta.permissions().mode() & 0o777))?;
        }
        Ok(Self { file, beside: Some((beside, target)) })
    }

    /// Where it is written.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// The unfinished file; none if it is written straight through.
    pub fn path(&self) -> Option<&Path> {
        self.beside.as_ref().map(|(beside, _)| beside.0.as_path())
    }

    /// A path for who writes and checks by path: the unfinished file or, if there is none, one in a folder.
    pub fn staged(&self, scratch: &ScratchFolder) -> PathBuf {
        self.path().map_or_else(|| scratch.path().join("staged"), Path::to_path_buf)
    }

    /// [`OutFile::publish`], with what was written under [`OutFile::staged`].
    pub fn publish_staged(mut self, scratch: &ScratchFolder) -> io::Result<()> {
        if self.beside.is_none() {
            io::copy(&mut File::open(self.staged(scratch))?, &mut self.file)?;
        }
        self.publish()
    }

    /// Makes it durable, and has it take its place.
    pub fn publish(self) -> io::Result<()> {
        let Self { file, beside } = self;
        let Some((beside, target)) = beside else {
            return match file.sync_all() {
                // Pipes and most devices have nothing to sync.
                Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                    Ok(())
                }
                synced => synced,
            };
        };
        file.sync_all()?;
        fs::rename(&beside.0, &target)?;
        beside.forget();
        File::open(parent(&target))?.sync_all()
    }
}

/// A folder for the time of a command, beside what the command writes.
#[derive(Debug)]
pub struct ScratchFolder(Beside);

impl ScratchFolder {
    /// Makes it, empty. It goes, with all that is in it, when this is dropped. Beside what is no plain file
    /// nothing may be made; then it is where temporary files are.
    pub fn beside(target: &Path) -> io::Result<Self> {
        let target = match kind_of(target)? {
            Kind::Plain(path) => path,
            Kind::Special(_) => std::env::temp_dir().join("wmall"),
        };
        Ok(Self(Beside::make(&target, |path| fs::create_dir(path))?.0))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn write(out: &mut OutFile, content: &[u8]) {
        out.file().write_all(content).unwrap();
    }

    #[test]
    fn two_writers_of_one_name_each_are_whole_and_the_last_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("name");
        fs::write(folder.path().join("name.part"), "the user's own").unwrap();
        let (mut one, mut other) = (OutFile::create(&target).unwrap(), OutFile::create(&target).unwrap());
        write(&mut one, b"one, and longer");
        write(&mut other, b"other");
        assert!(!target.exists(), "nothing is there before it is whole");
        other.publish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"other");
        one.publish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"one, and longer");
        assert_eq!(names(folder.path()), ["name", "name.part"]);
        assert_eq!(fs::read(folder.path().join("name.part")).unwrap(), b"the user's own");
    }

    #[test]
    fn what_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("name");
        fs::write(&target, "before").unwrap();
        let mut out = OutFile::create(&target).unwrap();
        write(&mut out, b"half");
        let there = names(folder.path());
        assert!(there.iter().any(|n| n.starts_with(".name.") && n.ends_with(SUFFIX)), "{there:?}");
        drop(out);
        let scratch = ScratchFolder::beside(&target).unwrap();
        fs::write(scratch.path().join("file"), "x").unwrap();
        drop(scratch);
        assert_eq!(names(folder.path()), ["name"]);
        assert_eq!(fs::read(&target).unwrap(), b"before");
    }

    #[test]
    fn rights_and_links_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("name"), folder.path().join("link"));
        fs::write(&target, "before").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("name", &link).unwrap();
        let mut out = OutFile::create(&link).unwrap();
        write(&mut out, b"after");
        out.publish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"after");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
        // A link to nothing yet is followed too; a folder is nothing to write to.
        fs::remove_file(&target).unwrap();
        OutFile::create(&link).unwrap().publish().unwrap();
        assert_eq!(names(folder.path()), ["link", "name"]);
        assert_eq!(OutFile::create(folder.path()).unwrap_err().kind(), ErrorKind::IsADirectory);
    }

    #[test]
    fn what_is_no_plain_file_is_written_through() {
        let null = Path::new("/dev/null");
        assert_eq!(kind_of(null).unwrap(), Kind::Special(null.into()));
        let mut null = OutFile::create(null).unwrap();
        assert_eq!(null.path(), None);
        write(&mut null, b"gone");
        null.publish().unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        assert!(matches!(kind_of(Path::new("/dev/stdout")), Ok(Kind::Special(_))), "whatever it leads to");

        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || {
                let mut all = Vec::new();
                File::open(pipe).unwrap().read_to_end(&mut all).unwrap();
                all
            }
        });
        let out = OutFile::create(&pipe).unwrap();
        let scratch = ScratchFolder::beside(&pipe).unwrap();
        fs::write(out.staged(&scratch), "through").unwrap();
        out.publish_staged(&scratch).unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert_eq!(names(folder.path()), ["pipe"]);
    }

    #[test]
    fn long_names_have_room_for_what_is_added() {
        let long = "x".repeat(255);
        assert!(temporary_name(OsStr::new(&long), [0xff; 8]).len() <= 255);
    }
}
