//! NCCL between processes of one machine: what our programs call of it, by sockets. Its library and the
//! driver's are one file with two names, since its work goes into the driver's streams and graphs.
//!
//! As with NCCL, a peer that is gone is no error of a call: `ncclCommGetAsyncError` tells of it, and the
//! work does not end before `ncclCommAbort`.
#![allow(non_snake_case)]

use super::codes::{Code, SUCCESS};
use super::device::{Needs, enter};
use super::report::note;
use super::stream::Node;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// `ncclResult_t`.
type Outcome = c_int;
const UNHANDLED_CUDA_ERROR: Outcome = 1;
const SYSTEM_ERROR: Outcome = 2;
const INVALID_ARGUMENT: Outcome = 4;
const INVALID_USAGE: Outcome = 5;
const REMOTE_ERROR: Outcome = 6;

/// `ncclFloat`, `ncclUint64`, `ncclAvg`.
const FLOAT: c_int = 7;
const UINT64: c_int = 5;
const AVERAGE: c_int = 4;

/// `ncclUniqueId`: here the port that rank 0 listens at.
#[repr(C)]
#[derive(Clone, Copy)]
struct Id([u8; 128]);

/// The ports that were given out and nobody has come to yet.
static LISTENING: Mutex<Option<HashMap<u16, TcpListener>>> = Mutex::new(None);

/// What a collective call does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// The mean of all ranks' floats.
    Mean,
    /// All ranks' words, one after the other.
    Gather,
}

/// A collective call: `count` elements of each rank.
#[derive(Clone, Debug)]
pub struct Collective {
    pub comm: Arc<Comm>,
    pub kind: Kind,
    pub from: u64,
    pub to: u64,
    pub count: usize,
}

/// A communicator. Rank 0 has a link to every other rank, in their order; they have one to it.
#[derive(Debug)]
pub struct Comm {
    rank: usize,
    size: usize,
    links: Mutex<Vec<TcpStream>>,
    error: AtomicI32,
    aborted: Mutex<bool>,
    abort: Condvar,
}

impl Comm {
    fn join(rank: usize, size: usize, id: Id) -> io::Result<Comm> {
        let port = u16::from_le_bytes([id.0[0], id.0[1]]);
        let links = if rank == 0 {
            let mut listening = LISTENING.lock().expect("no holder panics");
            let listener = listening.as_mut().and_then(|all| all.remove(&port));
            let listener = listener.ok_or(io::ErrorKind::NotFound)?;
            let mut links = Vec::new();
            for _ in 1..size {
                let mut link = listener.accept()?.0;
                let mut rank = [0; 8];
                link.read_exact(&mut rank)?;
                links.push((u64::from_le_bytes(rank), link));
            }
            links.sort_by_key(|(rank, _)| *rank);
            links.into_iter().map(|(_, link)| link).collect()
        } else {
            let mut link = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            link.write_all(&(rank as u64).to_le_bytes())?;
            vec![link]
        };
        Ok(Comm {
            rank,
            size,
            links: Mutex::new(links),
            error: AtomicI32::new(0),
            aborted: Mutex::new(false),
            abort: Condvar::new(),
        })
    }

    /// What all ranks' bytes make, which every rank has in the end.
    fn exchange(&self, call: &Collective, own: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut links = self.links.lock().expect("no holder panics");
        let header = [call.kind as u64, own.len() as u64];
        let header: Vec<u8> = header.iter().flat_map(|n| n.to_le_bytes()).collect();
        if self.rank > 0 {
            links[0].write_all(&header)?;
            links[0].write_all(&own)?;
            let length = match call.kind {
                Kind::Mean => own.len(),
                Kind::Gather => own.len() * self.size,
            };
            let mut all = vec![0; length];
            links[0].read_exact(&mut all)?;
            return Ok(all);
        }
        let mut all = vec![own];
        for link in links.iter_mut() {
            let mut other = vec![0; header.len()];
            link.read_exact(&mut other)?;
            if other != header {
                note("finding: ranks make different collective calls");
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut bytes = vec![0; all[0].len()];
            link.read_exact(&mut bytes)?;
            all.push(bytes);
        }
        let result = match call.kind {
            Kind::Gather => all.concat(),
            Kind::Mean => mean(&all),
        };
        for link in links.iter_mut() {
            link.write_all(&result)?;
        }
        Ok(result)
    }

    /// Does the call's work.
    pub fn run(&self, call: &Collective) {
        let bytes = call.kind.size() * call.count;
        // SAFETY: the call has checked that this is in a live block.
        let own = unsafe { std::slice::from_raw_parts(call.from as *const u8, bytes) }.to_vec();
        let Ok(result) = self.exchange(call, own) else {
            self.error.store(REMOTE_ERROR, Ordering::Relaxed);
            let aborted = self.aborted.lock().expect("no holder panics");
            let wait = self.abort.wait_while(aborted, |aborted| !*aborted);
            drop(wait.expect("no holder panics"));
            return;
        };
        // SAFETY: as above; the result is as long as the call has checked.
        unsafe { std::ptr::copy_nonoverlapping(result.as_ptr(), call.to as *mut u8, result.len()) };
    }
}

impl Kind {
    /// Bytes of an element.
    fn size(self) -> usize {
        match self {
            Kind::Mean => 4,
            Kind::Gather => 8,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Mean => "ncclAllReduce",
            Kind::Gather => "ncclAllGather",
        }
    }
}

/// Each rank's share is taken first and then added.
fn mean(all: &[Vec<u8>]) -> Vec<u8> {
    let share = 1.0 / all.len() as f32;
    let float = |bytes: &[u8], at: usize| {
        f32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    };
    let sums = (0..all[0].len()).step_by(4).flat_map(|at| {
        let shares = all.iter().map(|bytes| float(bytes, at) * share);
        shares.sum::<f32>().to_le_bytes()
    });
    sums.collect()
}

fn outcome(code: Code) -> Outcome {
    match code {
        SUCCESS => 0,
        _ => UNHANDLED_CUDA_ERROR,
    }
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetVersion(version: *mut c_int) -> Outcome {
    let text = std::env::var("STANDIN_NCCL").unwrap_or("22703".into());
    // SAFETY: the caller's variable.
    unsafe { version.write(text.parse().expect("STANDIN_NCCL=number")) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetErrorString(outcome: Outcome) -> *const c_char {
    let text: &CStr = match outcome {
        0 => c"no error",
        UNHANDLED_CUDA_ERROR => c"unhandled cuda error",
        SYSTEM_ERROR => c"unhandled system error",
        INVALID_ARGUMENT => c"invalid argument",
        INVALID_USAGE => c"invalid usage",
        REMOTE_ERROR => c"remote process exited or there was a network error",
        _ => c"unknown result code",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetUniqueId(id: *mut Id) -> Outcome {
    let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) else {
        return SYSTEM_ERROR;
    };
    let port = listener.local_addr().expect("it is bound").port();
    let mut listening = LISTENING.lock().expect("no holder panics");
    listening.get_or_insert_default().insert(port, listener);
    let mut bytes = [0; 128];
    bytes[..2].copy_from_slice(&port.to_le_bytes());
    // SAFETY: the caller's variable.
    unsafe { id.write(Id(bytes)) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommInitRank(comm: *mut usize, size: c_int, id: Id, rank: c_int) -> Outcome {
    let allowed = enter("ncclCommInitRank", Needs::NoCapture, |_| Ok(None));
    if allowed != SUCCESS {
        return outcome(allowed);
    }
    if comm.is_null() || !(0..size).contains(&rank) {
        return INVALID_ARGUMENT;
    }
    let Ok(joined) = Comm::join(rank as usize, size as usize, id) else {
        return SYSTEM_ERROR;
    };
    outcome(enter("ncclCommInitRank", Needs::NoCapture, |device| {
        let handle = device.comms.add(Arc::new(joined));
        // SAFETY: the caller's variable.
        unsafe { comm.write(handle) };
        Ok(None)
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommGetAsyncError(comm: usize, error: *mut Outcome) -> Outcome {
    outcome(enter("ncclCommGetAsyncError", Needs::Nothing, |device| {
        let comm = device.comms.get(comm, &mut device.findings)?;
        // SAFETY: the caller's variable.
        unsafe { error.write(comm.error.load(Ordering::Relaxed)) };
        Ok(None)
    }))
}

/// The graphs that use a communicator have to go first.
#[unsafe(no_mangle)]
extern "C" fn ncclCommDestroy(comm: usize) -> Outcome {
    outcome(enter("ncclCommDestroy", Needs::NoCapture, |device| {
        device.goes("ncclCommDestroy");
        let gone = device.comms.remove(comm, &mut device.findings)?;
        let uses = |node: &Node| matches!(node, Node::Collective(c) if Arc::ptr_eq(&c.comm, &gone));
        if device.execs.any(|graph| graph.iter().any(uses)) {
            let text = "a communicator is destroyed before the graphs that use it";
            device.findings.add(text.into());
        }
        Ok(None)
    }))
}

/// What waits for others ends, without a result.
#[unsafe(no_mangle)]
extern "C" fn ncclCommAbort(comm: usize) -> Outcome {
    outcome(enter("ncclCommAbort", Needs::Nothing, |device| {
        let gone = device.comms.remove(comm, &mut device.findings)?;
        *gone.aborted.lock().expect("no holder panics") = true;
        gone.abort.notify_all();
        Ok(None)
    }))
}

/// Puts a call into a stream.
fn submit((kind, from, to, count): (Kind, u64, u64, usize), comm: usize, stream: usize) -> Outcome {
    outcome(enter(kind.name(), Needs::Context, |device| {
        let comm = device.comms.get(comm, &mut device.findings)?.clone();
        let parts = match kind {
            Kind::Mean => 1,
            Kind::Gather => comm.size,
        };
        let bytes = kind.size() * count;
        for (address, bytes) in [(from, bytes), (to, parts * bytes)] {
            super::calls::inside(device, kind.name(), address, bytes)?;
        }
        let call = Collective {
            comm,
            kind,
            from,
            to,
            count,
        };
        device.submit(stream, Node::Collective(call))
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclAllReduce(
    from: u64,
    to: u64,
    count: usize,
    kind: c_int,
    op: c_int,
    comm: usize,
    stream: usize,
) -> Outcome {
    match (kind, op) {
        (FLOAT, AVERAGE) => submit((Kind::Mean, from, to, count), comm, stream),
        _ => INVALID_ARGUMENT,
    }
}

#[unsafe(no_mangle)]
extern "C" fn ncclAllGather(
    from: u64,
    to: u64,
    count: usize,
    kind: c_int,
    comm: usize,
    stream: usize,
) -> Outcome {
    match kind {
        UINT64 => submit((Kind::Gather, from, to, count), comm, stream),
        _ => INVALID_ARGUMENT,
    }
}
