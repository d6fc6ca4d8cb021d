//! Hostile bytes on every port of a cluster, at a steady rate: noise, what looks like the beginning of QUIC, real
//! handshakes that lead nowhere, and open TCP connections that say nothing.

use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wmall_proto::rpc::Request;
use wmall_proto::topology::ClusterId;
use wmall_proto::{NodeName, Role};
use wmall_transport::{Endpoint, Identity, Target};

use crate::bytes;

/// Datagrams a second, over all ports.
pub const RATE: u64 = 10_000;
/// Datagrams between pauses.
const BURST: u64 = 100;
/// TCP connections that are held open.
const HELD: usize = 200;

/// A flood; it ends with this value.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// Floods these UDP ports, and these TCP ports.
    pub fn start(udp: Vec<SocketAddr>, tcp: Vec<SocketAddr>) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (flag, ports) = (stop.clone(), udp.clone());
        let handshakes = std::thread::spawn(move || shake_hands(&ports, &flag));
        let (flag, count) = (stop.clone(), sent.clone());
        let datagrams = std::thread::spawn(move || send_datagrams(&udp, &flag, &count));
        let flag = stop.clone();
        let connections = std::thread::spawn(move || hold_connections(&tcp, &flag));
        Self { stop, sent, threads: vec![datagrams, handshakes, connections] }
    }

    /// Datagrams so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn send_datagrams(ports: &[SocketAddr], stop: &AtomicBool, sent: &AtomicU64) {
    let sockets: Vec<UdpSocket> = (0..16).filter_map(|_| UdpSocket::bind("127.0.0.1:0").ok()).collect();
    let mut n = 0u64;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            n += 1;
            let datagram = hostile(n);
            let to = ports[n as usize % ports.len()];
            // A full buffer drops it, as a network would.
            let went = sockets[n as usize % sockets.len()].send_to(&datagram, to);
            sent.fetch_add(u64::from(went.is_ok()), Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_micros(1_000_000 * BURST / RATE));
    }
}

/// The n-th datagram.
fn hostile(n: u64) -> Vec<u8> {
    let mut datagram = bytes(n, [1200, 40, 1400, 1][n as usize % 4]);
    match n % 3 {
        0 => {}
        // The long header of an Initial packet (RFC 9000 section 17.2.2) with connection ids that nobody knows, and noise
        // where the CRYPTO frame should be.
        1 => {
            let head =
                [0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, n as u8, 8, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0x44, 0x80];
            let length = head.len().min(datagram.len());
            datagram[..length].copy_from_slice(&head[..length]);
        }
        // A version that does not exist, which is to be answered with those that do.
        _ => {
            let head = [0xc0, 0xfa, 0xce, 0xb0, 0x0c, 20];
            let length = head.len().min(datagram.len());
            datagram[..length].copy_from_slice(&head[..length]);
        }
    }
    datagram
}

/// Real QUIC handshakes by somebody whose certificate is of another CA: they go as far as that is seen.
fn shake_hands(ports: &[SocketAddr], stop: &AtomicBool) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let (Ok(cluster), Ok(name)) =
        (wmall_proto::ids::parse_hex(&"ab".repeat(16)).ok_or(()), NodeName::new("x"))
    else {
        return;
    };
    let Ok(issuer) = wmall_transport::create_authority(&folder.path().join("ca"), ClusterId(cluster)) else {
        return;
    };
    let identity = folder.path().join("identity");
    let issued = issuer.issue(&identity, Role::Admin, &name, Duration::from_secs(3600));
    let (Ok(()), Ok(identity)) = (issued, Identity::load(&identity)) else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            // A new endpoint each time, so that no failed dial is remembered.
            let Ok(endpoint) = Endpoint::client(&identity) else { continue };
            let target = Target { role: Role::Metadata, node: name.clone(), address: ports[n % ports.len()] };
            let _ = endpoint.call(&target, &Request::Status, Duration::from_millis(200)).await;
        }
    });
}

fn hold_connections(ports: &[SocketAddr], stop: &AtomicBool) {
    let mut held: Vec<TcpStream> = Vec::new();
    let mut n = 0u64;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let Some(to) = ports.get(n as usize % ports.len().max(1)) else { return };
        if let Ok(mut stream) = TcpStream::connect_timeout(to, Duration::from_millis(200)) {
            let _ = stream.set_write_timeout(Some(Duration::from_millis(50)));
            // Half a request, noise, or nothing at all.
            let _ = match n % 3 {
                0 => stream.write_all(b"GET /metrics HTTP/1.1\r\nX: "),
                1 => stream.write_all(&bytes(n, 3000)),
                _ => Ok(()),
            };
            held.push(stream);
        }
        if held.len() > HELD {
            held.remove(0);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
