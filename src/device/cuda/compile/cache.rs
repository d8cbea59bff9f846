//! Compiled kernels on disk, so that a process pays for NVRTC once per source and not once per start.

use super::fnv1a;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// First bytes of every entry; a change of format changes them.
const MAGIC: &[u8; 8] = b"gatewrp1";

/// A folder of entries `MAGIC, checksum, image`. Everything about it may fail without harm.
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub(super) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// `gatewarp/` in the user's cache folder, if the user has one.
    pub(super) fn of_user() -> Option<Self> {
        let variable = |name: &str| std::env::var_os(name);
        user_folder(variable).map(Self::at)
    }

    /// The image under `name`, unless it is missing, cut short or altered.
    pub(super) fn read(&self, name: &str) -> Option<Vec<u8>> {
        let entry = std::fs::read(self.folder.join(name)).ok()?;
        let (checksum, image) = entry.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
        let intact = !image.is_empty() && u64::from_le_bytes(*checksum) == fnv1a(image.iter().copied());
        intact.then(|| image.to_vec())
    }

    /// Keeps an image. Written beside its place and moved there, so that no reader sees half of it.
    pub(super) fn write(&self, name: &str, image: &[u8]) {
        static WRITES: AtomicU64 = AtomicU64::new(0);
        let unique = WRITES.fetch_add(1, Ordering::Relaxed);
        let draft = self.folder.join(format!("{name}.{}.{unique}", std::process::id()));
        let checksum = fnv1a(image.iter().copied()).to_le_bytes();
        let entry = [MAGIC.as_slice(), &checksum, image].concat();
        let written = std::fs::create_dir_all(&self.folder)
            .and_then(|()| std::fs::write(&draft, entry))
            .and_then(|()| std::fs::rename(&draft, self.folder.join(name)));
        if written.is_err() {
            // A full or read-only disk costs the next process a compilation, nothing else.
            let _ = std::fs::remove_file(draft);
        }
    }
}

fn user_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute()) // as the XDG specification asks
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .or_else(|| set("LOCALAPPDATA"))?;
    Some(base.join("gatewarp"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A folder of the test's own.
    pub(in super::super) fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("gatewarp-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_not() {
        let folder = scratch("cache");
        let cache = Cache::at(folder.join("made/on/first/write"));
        assert_eq!(cache.read("kernel"), None);
        cache.write("kernel", b"image");
        assert_eq!(cache.read("kernel").as_deref(), Some(b"image".as_slice()));
        let path = cache.folder.join("kernel");
        let whole = std::fs::read(&path).unwrap();
        for damage in 0..whole.len() {
            let mut altered = whole.clone();
            altered[damage] ^= 1;
            std::fs::write(&path, &altered).unwrap();
            assert_eq!(cache.read("kernel"), None, "byte {damage} altered");
            std::fs::write(&path, &whole[..damage]).unwrap();
            assert_eq!(cache.read("kernel"), None, "cut to {damage} bytes");
        }
        cache.write("kernel", b"newer");
        assert_eq!(cache.read("kernel").as_deref(), Some(b"newer".as_slice()));
        assert_eq!(std::fs::read_dir(&cache.folder).unwrap().count(), 1, "drafts are left behind");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let folder = scratch("blocked");
        std::fs::write(folder.join("file"), b"").unwrap();
        let cache = Cache::at(folder.join("file"));
        cache.write("kernel", b"image");
        assert_eq!(cache.read("kernel"), None);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_users_folder_follows_the_xdg_rules() {
        let with = |pairs: &'static [(&str, &str)]| {
            let find =
                |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
            user_folder(find)
        };
        assert_eq!(with(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")]), Some("/c/gatewarp".into()));
        assert_eq!(with(&[("XDG_CACHE_HOME", "c"), ("HOME", "/h")]), Some("/h/.cache/gatewarp".into()));
        assert_eq!(with(&[("XDG_CACHE_HOME", ""), ("HOME", "/h")]), Some("/h/.cache/gatewarp".into()));
        assert_eq!(with(&[]), None);
    }
}
