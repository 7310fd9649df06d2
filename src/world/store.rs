//! The store in which the processes of `torchrun` meet: what of it takes to give everybody
//! everybody's bytes. There is no MPI between them, and NCCL needs an id before it can be.
//!
//! The server is PyTorch's (`TCPStore`), in the agent that listens at `MASTER_PORT`. Its protocol has
//! no version and has not changed since 1.0: a byte that says what, then keys and values with their
//! lengths as 64-bit numbers, all in the machine's own order of bytes.

use super::WorldError;
use std::env::var;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What a client begins with.
const GREETING: u32 = 0x3c85_f7ce;
/// The largest value that is believed: an exchange's text.
const MOST: u64 = 1 << 30;

/// What is asked for.
enum Query {
    Greet = 0,
    Set = 1,
    Get = 3,
    Wait = 6,
}

/// A client of the store.
pub struct Store {
    stream: TcpStream,
    /// Of this start of the processes: those that are started again find the same store.
    prefix: String,
    rank: usize,
    size: usize,
    round: u64,
}

fn failed(e: impl std::fmt::Display) -> WorldError {
    WorldError::Call {
        call: "torchrun's store",
        reason: e.to_string(),
    }
}

impl Store {
    /// Connects to the agent that `torchrun`'s variables name.
    ///
    /// # Errors
    /// None is there.
    pub fn join(rank: usize, size: usize, limit: Duration) -> Result<Store, WorldError> {
        let variable = |name| var(name).map_err(|_| failed(format!("{name} is not set")));
        let place = format!("{}:{}", variable("MASTER_ADDR")?, variable("MASTER_PORT")?);
        let stream = TcpStream::connect(&place).map_err(|e| failed(format!("{place}: {e}")))?;
        let restart = var("TORCHELASTIC_RESTART_COUNT").unwrap_or_default();
        Store::over(stream, &restart, rank, size, limit).map_err(failed)
    }

    fn over(
        mut stream: TcpStream,
        restart: &str,
        rank: usize,
        size: usize,
        limit: Duration,
    ) -> io::Result<Store> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        let greeting = GREETING.to_ne_bytes();
        stream.write_all(&[&[Query::Greet as u8][..], &greeting].concat())?;
        Ok(Store {
            stream,
            prefix: format!("autoassist/{restart}"),
            rank,
            size,
            round: 0,
        })
    }

    /// Gives everybody everybody's bytes, by rank.
    ///
    /// # Errors
    /// The store is gone, or somebody does not come.
    pub fn exchange(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>, WorldError> {
        self.round += 1;
        let round = format!("{}/{}", self.prefix, self.round);
        let key = |rank: usize| format!("{round}/{rank}");
        let mut all = || -> io::Result<_> {
            self.ask(Query::Set, &[key(self.rank).as_bytes(), own])?;
            (0..self.size).map(|rank| self.get(&key(rank))).collect()
        };
        all().map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => failed("no answer from the other ranks"),
            _ => failed(e),
        })
    }

    /// The value of a key, once it has one.
    fn get(&mut self, key: &str) -> io::Result<Vec<u8>> {
        let one = 1_u64.to_ne_bytes();
        let (length, key) = ((key.len() as u64).to_ne_bytes(), key.as_bytes());
        let wait = [&[Query::Wait as u8][..], &one, &length, key].concat();
        self.stream.write_all(&wait)?;
        let mut stop = [1];
        self.stream.read_exact(&mut stop)?;
        if stop != [0] {
            return Err(io::Error::other("it cancels to wait"));
        }
        self.ask(Query::Get, &[key])?;
        let mut length = [0; 8];
        self.stream.read_exact(&mut length)?;
        let length = u64::from_ne_bytes(length);
        if length > MOST {
            return Err(io::Error::other("its protocol is another"));
        }
        let mut value = vec![0; length as usize];
        self.stream.read_exact(&mut value)?;
        Ok(value)
    }

    fn ask(&mut self, query: Query, texts: &[&[u8]]) -> io::Result<()> {
        let mut message = vec![query as u8];
        for text in texts {
            message.extend((text.len() as u64).to_ne_bytes());
            message.extend(*text);
        }
        self.stream.write_all(&message)
    }
}

#[cfg(test)]
#[path = "../../tests/common/store.rs"]
mod server;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_everybody_s_bytes_round_by_round() {
        const RANKS: usize = 3;
        let place = server::start();
        std::thread::scope(|scope| {
            for rank in 0..RANKS {
                scope.spawn(move || {
                    let stream = TcpStream::connect(place).unwrap();
                    let limit = Duration::from_secs(60);
                    let mut store = Store::over(stream, "0", rank, RANKS, limit).unwrap();
                    for round in 0..4_u8 {
                        let own = |rank: usize| vec![round; rank * 5];
                        let all = store.exchange(&own(rank)).unwrap();
                        assert_eq!(all, [0, 1, 2].map(own));
                    }
                });
            }
        });
    }
}
