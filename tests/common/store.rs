//! A store that answers as PyTorch's `TCPStore` does, for processes that `torchrun` has not started.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

type Values = Arc<(Mutex<HashMap<Vec<u8>, Vec<u8>>>, Condvar)>;

/// Starts one on this machine. Its threads end with their clients, and with the process.
pub fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let place = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let values = Values::default();
        for client in listener.incoming() {
            let (client, values) = (client.expect("a client"), values.clone());
            // Ends when the client closes.
            std::thread::spawn(move || serve(client, &values));
        }
    });
    place
}

/// One client's end of it.
fn serve(mut stream: TcpStream, values: &Values) -> io::Result<()> {
    fn text(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
        let mut length = [0; 8];
        stream.read_exact(&mut length)?;
        let mut text = vec![0; u64::from_ne_bytes(length) as usize];
        stream.read_exact(&mut text)?;
        Ok(text)
    }
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting)?;
    assert_eq!(greeting[0], 0);
    assert_eq!(greeting[1..], 0x3c85_f7ce_u32.to_ne_bytes());
    let (values, changed) = &**values;
    loop {
        let mut query = [0];
        stream.read_exact(&mut query)?;
        match query[0] {
            1 => {
                let (key, value) = (text(&mut stream)?, text(&mut stream)?);
                assert_eq!(values.lock().unwrap().insert(key, value), None, "set once");
                changed.notify_all();
            }
            3 => {
                let key = text(&mut stream)?;
                let value = values.lock().unwrap()[&key].clone();
                stream.write_all(&(value.len() as u64).to_ne_bytes())?;
                stream.write_all(&value)?;
            }
            6 => {
                let mut count = [0; 8];
                stream.read_exact(&mut count)?;
                assert_eq!(u64::from_ne_bytes(count), 1);
                let key = text(&mut stream)?;
                let there = |all: &mut HashMap<_, _>| !all.contains_key(&key);
                drop(changed.wait_while(values.lock().unwrap(), there).unwrap());
                stream.write_all(&[0])?;
            }
            other => panic!("query {other}"),
        }
    }
}
