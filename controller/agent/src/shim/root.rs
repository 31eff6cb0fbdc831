//! A container's root: a small tmpfs into which the entries of the base, the host's root or an image, are bound
//! read-only, with a /proc, /sys, /dev, /tmp and /run of its own, and the volume at /data.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use crate::failure::{Failure, Step};
use crate::launch::ContainerLaunch;
use crate::sys;

/// Makes the root and enters it. The calling process has a mount namespace of its own and is the first of its pid
/// namespace.
pub(super) fn enter(container: &ContainerLaunch) -> Result<(), Failure> {
    let root = container.root.as_path();
    change("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE).step("take the mounts apart from the host's")?;
    fs::create_dir_all(root).step("make the root's directory")?;
    tmpfs(root, "mode=755,size=1m").step("make the root")?;
    // So that a recursive bind of the directory that it lies in leaves it out.
    change(root, MsFlags::MS_UNBINDABLE).step("make the root")?;

    let host = container.base == Path::new("/");
    let mut own = vec!["proc", "sys", "dev", "tmp", "run", "data"];
    if host {
        own.extend(["root", "home", "boot", "mnt", "media", "lost+found"]);
    }
    let entries = fs::read_dir(&container.base).step(format!("read {}", container.base.display()))?;
    for entry in entries {
        let entry = entry.step(format!("read {}", container.base.display()))?;
        let name = entry.file_name();
        if own.iter().any(|own| name == *own) {
            continue;
        }
        bind_entry(&entry.path(), &root.join(&name))?;
    }
    for name in &own[..if host { 8 } else { 6 }] {
        fs::create_dir(root.join(name)).step(format!("make /{name}"))?;
    }
    if host {
        for path in &container.hidden {
            hide(root, path)?;
        }
    }
    own_file_systems(root)?;
    bind(&container.volume, &root.join("data")).step("bind the volume")?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    change(root.join("data"), flags).step("bind the volume")?;

    chdir(root).step("enter the root")?;
    // Both in one place: the old root lies on top of the new one until it is taken off.
    pivot_root(".", ".").step("enter the root")?;
    umount2(".", MntFlags::MNT_DETACH).step("leave the host's root")?;
    chdir("/").step("enter the root")?;
    change("/", MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY).step("make the root read-only")
}

fn bind_entry(from: &Path, to: &Path) -> Result<(), Failure> {
    let what = || format!("bind {}", from.display());
    let meta = fs::symlink_metadata(from).step(what())?;
    if meta.is_symlink() {
        let target = fs::read_link(from).step(what())?;
        return symlink(target, to).step(what());
    }
    if meta.is_dir() {
        fs::create_dir(to).step(what())?;
    } else if meta.is_file() {
        fs::write(to, "").step(what())?;
    } else {
        return Ok(());
    }
    bind(from, to).step(what())?;
    let path = CString::new(to.as_os_str().as_bytes()).map_err(|_| Failure::permanent(what()))?;
    sys::read_only_tree(&path).step(format!("make {} read-only", from.display()))
}

/// Covers a directory by an empty one, a file by /dev/null. What is not there needs no cover.
fn hide(root: &Path, path: &Path) -> Result<(), Failure> {
    // Where it is a link, or below one, what it leads to is to be covered.
    let Ok(path) = fs::canonicalize(path) else { return Ok(()) };
    let Ok(inner) = path.strip_prefix("/") else { return Ok(()) };
    let cover = root.join(inner);
    match fs::symlink_metadata(&cover) {
        Ok(meta) if meta.is_dir() => tmpfs(&cover, "mode=000,size=4k,nr_inodes=1"),
        Ok(meta) if meta.is_file() => bind(Path::new("/dev/null"), &cover),
        _ => return Ok(()),
    }
    .step(format!("hide {}", path.display()))
}

fn own_file_systems(root: &Path) -> Result<(), Failure> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let proc = root.join("proc");
    mount(Some("proc"), &proc, Some("proc"), plain, None::<&str>).step("mount /proc")?;
    // What would let root inside change or read the machine's kernel.
    for name in ["sys", "irq", "bus", "fs"] {
        let path = proc.join(name);
        if path.is_dir() {
            bind(&path, &path).step("guard /proc")?;
            change(&path, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | plain)
                .step("guard /proc")?;
        }
    }
    for name in ["sysrq-trigger", "kcore", "keys", "timer_list", "kmsg", "kallsyms"] {
        if proc.join(name).exists() {
            bind(Path::new("/dev/null"), &proc.join(name)).step("guard /proc")?;
        }
    }
    let sys = root.join("sys");
    mount(Some("sysfs"), &sys, Some("sysfs"), plain | MsFlags::MS_RDONLY, None::<&str>).step("mount /sys")?;
    for (name, options) in [("tmp", "mode=1777"), ("run", "mode=755"), ("var/tmp", "mode=1777")] {
        let path = root.join(name);
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            tmpfs(&path, options).step(format!("make /{name}"))?;
        }
    }
    own_devices(&root.join("dev")).step("make /dev")
}

fn own_devices(dev: &Path) -> nix::Result<()> {
    let io = |error: std::io::Error| nix::Error::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let none = None::<&str>;
    mount(Some("dev"), dev, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=64k"))?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        fs::write(dev.join(name), "").map_err(io)?;
        bind(&Path::new("/dev").join(name), &dev.join(name))?;
    }
    for name in ["pts", "shm"] {
        fs::create_dir(dev.join(name)).map_err(io)?;
    }
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = Some("newinstance,ptmxmode=0666,mode=620");
    mount(Some("devpts"), &dev.join("pts"), Some("devpts"), plain, options)?;
    mount(Some("shm"), &dev.join("shm"), Some("tmpfs"), plain | MsFlags::MS_NODEV, none)?;
    fs::set_permissions(dev.join("shm"), fs::Permissions::from_mode(0o1777)).map_err(io)?;
    for (target, name) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        symlink(target, dev.join(name)).map_err(io)?;
    }
    Ok(())
}

fn tmpfs(path: &Path, options: &str) -> nix::Result<()> {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))
}

fn bind(from: &Path, to: &Path) -> nix::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
}

fn change(path: impl AsRef<Path>, flags: MsFlags) -> nix::Result<()> {
    mount(None::<&str>, path.as_ref(), None::<&str>, flags, None::<&str>)
}
