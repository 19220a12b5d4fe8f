//! A simulated disk with power loss and planned failures.
//!
//! [`SimState::after_power_loss`] produces a disk as left by a crash: each unsynced write and directory entry is
//! independently kept, dropped, torn at sectors or garbled. That covers more than any real file system does, provided
//! that syncs work, writes do not affect neighbouring bytes, and link, rename and unlink are atomic. A failed sync
//! behaves as on Linux: a later sync does not write the data the failed one should have written.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::collections::{BTreeMap, HashSet};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastk::disk::mmap::Map;
use fastk::disk::{Disk, DiskFile, DiskPath, File};

/// Bytes that a power loss keeps or drops atomically.
const SECTOR: usize = 512;

/// A small random number generator (SplitMix64), so that a seed determines a run.
#[derive(Clone, Copy, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// True with a probability of `percent` percent.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.roll() % 100 < percent
    }
}

/// A disk operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    CreateDir,
    SyncDir,
    List,
    Look,
    Create,
    Open,
    Link,
    Rename,
    Remove,
    RemoveDir,
    Lock,
    Random,
    Read,
    Write,
    Reserve,
    SetBytes,
    Sync,
    Bytes,
    Map,
}

impl Op {
    /// Whether the operation changes the states a crash can leave.
    pub fn changes(self) -> bool {
        !matches!(self, Op::List | Op::Look | Op::Open | Op::Lock | Op::Random | Op::Read | Op::Bytes | Op::Map)
    }
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A device error.
    Io,
    /// No space left.
    Full,
    /// Reads and writes transfer half of the requested bytes; other operations are not counted.
    Short,
    /// Interrupted by a signal.
    Interrupted,
}

/// The operation that fails, counted from 0, and whether all later ones fail too.
#[derive(Clone, Copy, Debug)]
pub struct FaultPlan {
    pub at: u64,
    pub fault: Fault,
    pub forever: bool,
    /// Count and fail only operations that change the disk.
    pub only_changes: bool,
}

impl FaultPlan {
    fn counts(&self, op: Op) -> bool {
        (op.changes() || !self.only_changes) && (self.fault != Fault::Short || matches!(op, Op::Read | Op::Write))
    }

    fn fails(&self, now: u64) -> bool {
        now == self.at || (self.forever && now > self.at)
    }
}

#[derive(Clone, Debug)]
enum DirChange {
    Put(String, usize),
    Remove(String),
}

#[derive(Clone, Debug)]
enum FileChange {
    Write(usize, Arc<Vec<u8>>),
    Length(usize),
}

#[derive(Clone, Debug)]
enum Node {
    Dir {
        live: BTreeMap<String, usize>,
        durable: BTreeMap<String, usize>,
        pending: Vec<DirChange>,
    },
    File {
        live: Arc<Vec<u8>>,
        durable: Arc<Vec<u8>>,
        pending: Vec<FileChange>,
        /// Changes abandoned by a failed sync: a crash may keep them, no later sync makes them durable.
        doomed: Vec<FileChange>,
    },
}

impl Node {
    fn dir() -> Self {
        Node::Dir { live: BTreeMap::new(), durable: BTreeMap::new(), pending: Vec::new() }
    }

    fn file() -> Self {
        Node::File { live: Arc::default(), durable: Arc::default(), pending: Vec::new(), doomed: Vec::new() }
    }
}

/// Complete content of a simulated disk at one moment. Cheap to clone: files are shared until they change.
#[derive(Clone, Debug)]
pub struct SimState {
    nodes: Vec<Arc<Node>>,
}

impl Default for SimState {
    fn default() -> Self {
        Self { nodes: vec![Arc::new(Node::dir())] }
    }
}

fn not_found() -> io::Error {
    ErrorKind::NotFound.into()
}

fn change(bytes: &mut Vec<u8>, change: &FileChange) {
    match change {
        FileChange::Write(offset, data) => put(bytes, *offset, data),
        FileChange::Length(length) => {
            if bytes.len() < *length {
                bytes.resize(*length, 0);
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(slot) = bytes.get_mut(offset..end) {
        slot.copy_from_slice(data);
    }
}

impl SimState {
    fn node(&self, id: usize) -> io::Result<&Node> {
        self.nodes.get(id).map(Arc::as_ref).ok_or_else(not_found)
    }

    fn node_mut(&mut self, id: usize) -> io::Result<&mut Node> {
        self.nodes.get_mut(id).map(Arc::make_mut).ok_or_else(not_found)
    }

    fn entries(&self, id: usize) -> io::Result<&BTreeMap<String, usize>> {
        match self.node(id)? {
            Node::Dir { live, .. } => Ok(live),
            Node::File { .. } => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut at = 0;
        for part in path.components() {
            if let Component::Normal(name) = part {
                at = *self.entries(at)?.get(&*name.to_string_lossy()).ok_or_else(not_found)?;
            }
        }
        Ok(at)
    }

    /// Id of a path's directory, and its name there.
    fn place(&self, path: &Path) -> io::Result<(usize, String)> {
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
        Ok((self.find(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn change_dir(&mut self, id: usize, change: DirChange) -> io::Result<()> {
        let Node::Dir { live, pending, .. } = self.node_mut(id)? else {
            return Err(ErrorKind::NotADirectory.into());
        };
        match &change {
            DirChange::Put(name, node) => live.insert(name.clone(), *node),
            DirChange::Remove(name) => live.remove(name),
        };
        pending.push(change);
        Ok(())
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<usize> {
        let (dir, name) = self.place(path)?;
        if self.entries(dir)?.contains_key(&name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.nodes.push(Arc::new(node));
        let id = self.nodes.len() - 1;
        self.change_dir(dir, DirChange::Put(name, id))?;
        Ok(id)
    }

    fn change_file(&mut self, id: usize, what: FileChange) -> io::Result<()> {
        let Node::File { live, pending, .. } = self.node_mut(id)? else { return Err(ErrorKind::IsADirectory.into()) };
        change(Arc::make_mut(live), &what);
        pending.push(what);
        Ok(())
    }

    fn bytes_of(&self, id: usize) -> io::Result<&Arc<Vec<u8>>> {
        match self.node(id)? {
            Node::File { live, .. } => Ok(live),
            Node::Dir { .. } => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn sync(&mut self, id: usize) -> io::Result<()> {
        match self.node_mut(id)? {
            Node::File { live, durable, pending, doomed } => {
                if doomed.is_empty() {
                    *durable = Arc::clone(live);
                } else {
                    let bytes = Arc::make_mut(durable);
                    pending.iter().for_each(|what| change(bytes, what));
                }
                pending.clear();
            }
            Node::Dir { live, durable, pending } => {
                durable.clone_from(live);
                pending.clear();
            }
        }
        Ok(())
    }

    fn fail_sync(&mut self, id: usize) -> io::Result<()> {
        if let Node::File { pending, doomed, .. } = self.node_mut(id)? {
            doomed.append(pending);
        }
        Ok(())
    }

    /// The first part of a file that is not durable: the name of one of its directories, its own name, or its bytes.
    pub fn not_durable(&self, path: &Path) -> Option<String> {
        let mut at = 0;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let name = name.to_string_lossy();
            let Some(Node::Dir { live, durable, .. }) = self.nodes.get(at).map(Arc::as_ref) else {
                return Some(format!("{name} is not in a directory"));
            };
            let Some(node) = live.get(&*name) else { return Some(format!("{name} does not exist")) };
            if durable.get(&*name) != Some(node) {
                return Some(format!("the name {name} is not synced"));
            }
            at = *node;
        }
        match self.nodes.get(at).map(Arc::as_ref) {
            Some(Node::File { pending, doomed, .. }) if !pending.is_empty() || !doomed.is_empty() => {
                Some("its bytes are not synced".to_owned())
            }
            _ => None,
        }
    }

    /// Content of a file; `None` when it does not exist.
    pub fn file(&self, path: &Path) -> Option<Arc<Vec<u8>>> {
        self.find(path).and_then(|id| self.bytes_of(id).map(Arc::clone)).ok()
    }

    /// All files with their content, by path.
    pub fn files(&self) -> BTreeMap<PathBuf, Arc<Vec<u8>>> {
        let mut out = BTreeMap::new();
        let mut open = vec![(PathBuf::from("/"), 0)];
        while let Some((path, id)) = open.pop() {
            match self.nodes.get(id).map(Arc::as_ref) {
                Some(Node::Dir { live, .. }) => {
                    open.extend(live.iter().map(|(name, node)| (path.join(name), *node)));
                }
                Some(Node::File { live, .. }) => {
                    out.insert(path, Arc::clone(live));
                }
                None => {}
            }
        }
        out
    }

    /// Writes a durable file; for tests that damage files.
    pub fn put_file(&mut self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let id = match self.find(path) {
            Ok(id) => id,
            Err(_) => self.add(path, Node::file())?,
        };
        let bytes = Arc::new(bytes);
        *self.node_mut(id)? =
            Node::File { live: Arc::clone(&bytes), durable: bytes, pending: Vec::new(), doomed: Vec::new() };
        let (dir, _) = self.place(path)?;
        self.sync(dir)
    }

    /// Removes a file durably; for tests.
    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.place(path)?;
        self.change_dir(dir, DirChange::Remove(name))?;
        self.sync(dir)
    }

    /// Whether a power loss now can leave only one state.
    pub fn is_settled(&self) -> bool {
        self.nodes.iter().all(|node| match node.as_ref() {
            Node::Dir { pending, .. } => pending.is_empty(),
            Node::File { pending, doomed, .. } => pending.is_empty() && doomed.is_empty(),
        })
    }

    /// One of the states a power loss now can leave.
    pub fn after_power_loss(&self, seed: u64) -> SimState {
        let mut rng = Rng(seed);
        // In half of the cases all or no changes are kept, else each change independently.
        let keep = match rng.roll() % 4 {
            0 => 0,
            1 => 100,
            _ => 20 + rng.roll() % 61,
        };
        let tear = if rng.percent(50) { 50 } else { 0 };
        let nodes = self.nodes.iter().map(|node| match node.as_ref() {
            Node::Dir { live, durable, pending } => {
                if pending.is_empty() {
                    return Arc::clone(node);
                }
                let mut left = durable.clone();
                if keep == 100 {
                    left.clone_from(live);
                } else {
                    for change in pending {
                        if rng.percent(keep) {
                            match change {
                                DirChange::Put(name, node) => left.insert(name.clone(), *node),
                                DirChange::Remove(name) => left.remove(name),
                            };
                        }
                    }
                }
                Arc::new(Node::Dir { live: left.clone(), durable: left, pending: Vec::new() })
            }
            Node::File { durable, pending, doomed, .. } => {
                if pending.is_empty() && doomed.is_empty() {
                    return Arc::clone(node);
                }
                let mut left = durable.as_ref().clone();
                for what in doomed.iter().chain(pending) {
                    match what {
                        FileChange::Write(offset, data) if tear > 0 && rng.percent(tear) => {
                            torn(&mut left, *offset, data, &mut rng);
                        }
                        what if rng.percent(keep) => change(&mut left, what),
                        _ => {}
                    }
                }
                let left = Arc::new(left);
                Arc::new(Node::File { live: Arc::clone(&left), durable: left, pending: Vec::new(), doomed: Vec::new() })
            }
        });
        SimState { nodes: nodes.collect() }
    }
}

/// Keeps some sectors of a write, drops others and garbles others.
fn torn(bytes: &mut Vec<u8>, offset: usize, data: &[u8], rng: &mut Rng) {
    let mut at = 0;
    while at < data.len() {
        let part = (SECTOR - (offset + at) % SECTOR).min(data.len() - at);
        let sector = data.get(at..at + part).unwrap_or_default();
        match rng.roll() % 5 {
            0 | 1 => put(bytes, offset + at, sector),
            2 => {
                let garbled: Vec<u8> = sector.iter().map(|_| u8::try_from(rng.roll() % 256).unwrap_or(0)).collect();
                put(bytes, offset + at, &garbled);
            }
            _ => {}
        }
        at += part;
    }
}

/// The state of a disk just before an operation.
#[derive(Clone, Debug)]
pub struct Moment {
    pub op: Op,
    pub path: PathBuf,
    pub before: SimState,
}

#[derive(Debug, Default)]
struct Sim {
    state: SimState,
    locked: HashSet<PathBuf>,
    rng: Option<Rng>,
    ops: u64,
    plan: Option<FaultPlan>,
    /// A second plan, with its own count.
    second: Option<(FaultPlan, u64)>,
    faults: u64,
    /// The first operation that failed.
    hit: Option<(Op, PathBuf)>,
    /// Recorded operations, while recording.
    moments: Option<Vec<Moment>>,
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<Sim>>);

impl SimDisk {
    /// A disk with this content; `seed` determines its random numbers.
    pub fn new(state: SimState, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Sim { state, rng: Some(Rng(seed)), ..Sim::default() })))
    }

    /// A path on this disk.
    pub fn path(&self, path: &str) -> DiskPath {
        DiskPath::new(Arc::new(self.clone()), path)
    }

    fn sim(&self) -> MutexGuard<'_, Sim> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current content.
    pub fn state(&self) -> SimState {
        self.sim().state.clone()
    }

    /// Changes the content directly, bypassing the operations.
    pub fn tamper<T>(&self, work: impl FnOnce(&mut SimState) -> T) -> T {
        work(&mut self.sim().state)
    }

    /// Starts recording all operations that change the disk.
    pub fn record(&self) {
        self.sim().moments = Some(Vec::new());
    }

    /// Returns the operations recorded since the last call.
    pub fn recorded(&self) -> Vec<Moment> {
        self.sim().moments.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Plans a failure; counting starts now. `None` removes the plan.
    pub fn fail(&self, plan: Option<FaultPlan>) {
        let mut sim = self.sim();
        sim.plan = plan;
        sim.second = None;
        sim.ops = 0;
        sim.faults = 0;
        sim.hit = None;
    }

    /// Plans a second failure, with its own count starting now.
    pub fn fail_also(&self, plan: FaultPlan) {
        self.sim().second = Some((plan, 0));
    }

    /// The first operation that failed since [`SimDisk::fail`].
    pub fn hit(&self) -> Option<(Op, PathBuf)> {
        self.sim().hit.clone()
    }

    /// Operations since [`SimDisk::fail`] that a plan would have counted, and how many failed.
    pub fn counted(&self) -> (u64, u64) {
        let sim = self.sim();
        (sim.ops, sim.faults)
    }

    /// Starts an operation: records it, counts it, and returns its fault, if it has one.
    fn begin(&self, op: Op, path: &Path) -> (MutexGuard<'_, Sim>, Option<Fault>) {
        let mut sim = self.sim();
        if op.changes() {
            let before = sim.moments.is_some().then(|| sim.state.clone());
            if let (Some(moments), Some(before)) = (&mut sim.moments, before) {
                moments.push(Moment { op, path: path.to_owned(), before });
            }
        }
        let counts = sim.plan.is_none_or(|plan| plan.counts(op));
        let mut fault = sim.plan.filter(|plan| counts && plan.fails(sim.ops));
        sim.ops += u64::from(counts);
        if let Some((plan, now)) = sim.second.as_mut().filter(|(plan, _)| plan.counts(op)) {
            fault = fault.or(Some(*plan).filter(|plan| plan.fails(*now)));
            *now += 1;
        }
        if fault.is_some() {
            sim.faults += 1;
            sim.hit.get_or_insert_with(|| (op, path.to_owned()));
        }
        (sim, fault.map(|plan| plan.fault))
    }

    fn run<T>(&self, op: Op, path: &Path, work: impl FnOnce(&mut Sim) -> io::Result<T>) -> io::Result<T> {
        let (mut sim, fault) = self.begin(op, path);
        match fault {
            None => work(&mut sim),
            Some(fault) => Err(error_of(fault)),
        }
    }
}

fn error_of(fault: Fault) -> io::Error {
    match fault {
        Fault::Io => io::Error::other("simulated device error"),
        Fault::Full => ErrorKind::StorageFull.into(),
        Fault::Short | Fault::Interrupted => ErrorKind::Interrupted.into(),
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Op::CreateDir, path, |sim| sim.state.add(path, Node::dir()).map(|_| ()))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Op::SyncDir, path, |sim| {
            let id = sim.state.find(path)?;
            sim.state.sync(id)
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.run(Op::List, path, |sim| Ok(sim.state.entries(sim.state.find(path)?)?.keys().cloned().collect()))
    }

    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        self.run(Op::Look, path, |sim| Ok(matches!(sim.state.node(sim.state.find(path)?)?, Node::Dir { .. })))
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let id = self.run(Op::Create, path, |sim| sim.state.add(path, Node::file()))?;
        Ok(Box::new(SimFile { disk: self.clone(), id, path: path.to_owned(), locks: false }))
    }

    fn open(&self, path: &Path, _writing: bool) -> io::Result<File> {
        let id = self.run(Op::Open, path, |sim| {
            let id = sim.state.find(path)?;
            sim.state.bytes_of(id).map(|_| id)
        })?;
        Ok(Box::new(SimFile { disk: self.clone(), id, path: path.to_owned(), locks: false }))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Op::Link, to, |sim| {
            let id = sim.state.find(from)?;
            let (dir, name) = sim.state.place(to)?;
            if sim.state.entries(dir)?.contains_key(&name) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            sim.state.change_dir(dir, DirChange::Put(name, id))
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Op::Rename, to, |sim| {
            let id = sim.state.find(from)?;
            let ((old_dir, old_name), (dir, name)) = (sim.state.place(from)?, sim.state.place(to)?);
            sim.state.change_dir(dir, DirChange::Put(name, id))?;
            sim.state.change_dir(old_dir, DirChange::Remove(old_name))
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(Op::Remove, path, |sim| {
            let id = sim.state.find(path)?;
            sim.state.bytes_of(id)?;
            let (dir, name) = sim.state.place(path)?;
            sim.state.change_dir(dir, DirChange::Remove(name))
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Op::RemoveDir, path, |sim| {
            if !sim.state.entries(sim.state.find(path)?)?.is_empty() {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            let (dir, name) = sim.state.place(path)?;
            sim.state.change_dir(dir, DirChange::Remove(name))
        })
    }

    fn lock(&self, path: &Path) -> io::Result<File> {
        let id = self.run(Op::Lock, path, |sim| {
            let id = match sim.state.find(path) {
                Ok(id) => id,
                Err(_) => sim.state.add(path, Node::file())?,
            };
            if sim.locked.insert(path.to_owned()) { Ok(id) } else { Err(ErrorKind::WouldBlock.into()) }
        })?;
        Ok(Box::new(SimFile { disk: self.clone(), id, path: path.to_owned(), locks: true }))
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.run(Op::Random, Path::new("random"), |sim| {
            let rng = sim.rng.get_or_insert(Rng(0));
            bytes.iter_mut().for_each(|byte| *byte = u8::try_from(rng.roll() % 256).unwrap_or(0));
            Ok(())
        })
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: usize,
    path: PathBuf,
    /// Whether this file holds the lock.
    locks: bool,
}

impl SimFile {
    fn half(fault: Option<Fault>, length: usize) -> io::Result<usize> {
        match fault {
            None => Ok(length),
            Some(Fault::Short) => Ok(length.div_ceil(2)),
            Some(fault) => Err(error_of(fault)),
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let (sim, fault) = self.disk.begin(Op::Read, &self.path);
        let wanted = Self::half(fault, into.len())?;
        let bytes = sim.state.bytes_of(self.id)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let found = bytes.get(from..).unwrap_or_default();
        let count = found.len().min(wanted);
        if let (Some(into), Some(found)) = (into.get_mut(..count), found.get(..count)) {
            into.copy_from_slice(found);
        }
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let (mut sim, fault) = self.disk.begin(Op::Write, &self.path);
        let count = Self::half(fault, bytes.len())?;
        let data = Arc::new(bytes.get(..count).unwrap_or_default().to_vec());
        sim.state.change_file(self.id, FileChange::Write(usize::try_from(offset).unwrap_or(0), data))?;
        Ok(count)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let length = usize::try_from(bytes).unwrap_or(0);
        self.disk.run(Op::Reserve, &self.path, |sim| sim.state.change_file(self.id, FileChange::Length(length)))
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        // Only the lock file is ever truncated, and its content has no durability requirements.
        self.disk.run(Op::SetBytes, &self.path, |sim| {
            if let Node::File { live, .. } = sim.state.node_mut(self.id)? {
                Arc::make_mut(live).resize(usize::try_from(bytes).unwrap_or(0), 0);
            }
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let (mut sim, fault) = self.disk.begin(Op::Sync, &self.path);
        match fault {
            None => sim.state.sync(self.id),
            Some(fault) => {
                sim.state.fail_sync(self.id)?;
                Err(error_of(fault))
            }
        }
    }

    fn bytes(&self) -> io::Result<u64> {
        self.disk.run(Op::Bytes, &self.path, |sim| Ok(sim.state.bytes_of(self.id)?.len() as u64))
    }

    fn map(&self) -> io::Result<Map> {
        self.disk.run(Op::Map, &self.path, |sim| Ok(Map::copied(sim.state.bytes_of(self.id)?)))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if self.locks {
            self.disk.sim().locked.remove(&self.path);
        }
    }
}
