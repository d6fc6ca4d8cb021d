//! How quinn is set up. Loopback gets datagrams as large as UDP allows; networks discover their MTU.
//!
//! Bounds: a peer may have [`MAX_STREAMS`] calls open and [`FULL_WINDOW`] bytes on the way, or less
//! ([`window_of`]).

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustix::net::sockopt;

/// Calls that one peer may have open at once.
const MAX_STREAMS: u32 = 512;
/// Bytes on the way on one connection, as measured to be enough.
pub(crate) const FULL_WINDOW: u64 = 64 << 20;
/// Bytes on the way until it is known whose connection it is.
pub(crate) const FIRST_WINDOW: u64 = 256 << 10;
/// Bytes that windows of all peers are measured by. A connection gets its share when it is made, and again
/// every few seconds by how many there are then.
const WINDOW_BUDGET: u64 = 512 << 20;
/// Connections that are counted as there at least, so that the first gets no more than the tuned window.
const FEW_CONNECTIONS: u64 = 8;
/// Bytes on the way on one call.
const STREAM_WINDOW: u64 = 16 << 20;
/// What the kernel is asked for.
const SOCKET_BUFFER: usize = 8 << 20;
/// With less than this, large datagrams are dropped faster than they help.
const SMALL_BUFFER: usize = 1 << 20;
/// Payload of a datagram over loopback.
const LOOPBACK_MTU: u16 = 65_000;
/// The largest there is; a datagram that the kernel has merged from several fits too.
const MAX_DATAGRAM: u16 = 65_527;
/// GSO sends ten datagrams at once and the kernel takes at most 64 KiB: beyond this it answers
/// EMSGSIZE, which quinn-udp swallows.
const NETWORK_MTU_BOUND: u16 = 6_500;
const INITIAL_WINDOW: u64 = 1 << 20;
/// A peer that says nothing for so long is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Bytes on the way on a holder's connection, in either direction, when it is made: all of it for the first, a
/// quarter for the second, a ninth for the third. So a holder has less than twice [`FULL_WINDOW`] together with
/// [`FIRST_WINDOW`] for each, however many it makes before the others are measured again.
pub(crate) fn first_window_of(own: u64, all: u64) -> u64 {
    window_of(own.max(1).saturating_mul(own.max(1)), all)
}

/// The same of a connection that stands, by how many there are now: an equal share for each of the holder's.
pub(crate) fn window_of(own: u64, all: u64) -> u64 {
    (FULL_WINDOW / own.max(1)).min(WINDOW_BUDGET / all.max(FEW_CONNECTIONS)).max(FIRST_WINDOW)
}

/// A socket with the buffers that were granted.
pub(crate) struct Socket {
    pub(crate) socket: UdpSocket,
    pub(crate) small_buffers: bool,
}

pub(crate) fn bind(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = UdpSocket::bind(address)?;
    // The forced variants ignore the sysctl bound but need a capability; the others take what they get.
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER)?;
    }
    let granted = sockopt::socket_recv_buffer_size(&socket)?.min(sockopt::socket_send_buffer_size(&socket)?);
    let small_buffers = granted < SMALL_BUFFER;
    if small_buffers {
        tracing::warn!(
            granted,
            wanted = SOCKET_BUFFER,
            "small UDP buffers; raise net.core.rmem_max and net.core.wmem_max for full speed"
        );
    }
    Ok(Socket { socket, small_buffers })
}

pub(crate) fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    // Within the bounds that the setter checks.
    let _ = config.max_udp_payload_size(MAX_DATAGRAM);
    config
}

/// The settings for a peer at this address, with at most `window` bytes on the way from it.
pub(crate) fn transport(peer: IpAddr, small_buffers: bool, window: u64) -> Arc<TransportConfig> {
    let window = window.min(FULL_WINDOW);
    let bytes = |n: u64| VarInt::from_u32(u32::try_from(n).unwrap_or(u32::MAX));
    let mut config = TransportConfig::default();
    let mut cubic = CubicConfig::default();
    cubic.initial_window(INITIAL_WINDOW);
    config
        .receive_window(bytes(window))
        .stream_receive_window(bytes(STREAM_WINDOW))
        .send_window(window)
        .send_fairness(false)
        .min_mtu(1200)
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(cubic))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok());
    if peer.is_loopback() {
        config
            .initial_mtu(if small_buffers { 8_952 } else { LOOPBACK_MTU })
            .mtu_discovery_config(None)
            .enable_segmentation_offload(false);
    } else {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(NETWORK_MTU_BOUND);
        config.initial_mtu(1452).mtu_discovery_config(Some(discovery));
    }
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_shrink_with_a_holder_s_connections_and_with_everybody_s() {
        const MIB: u64 = 1 << 20;
        let first = |own, all| first_window_of(own, all);
        assert_eq!((first(0, 0), first(1, 1), first(1, 8)), (64 * MIB, 64 * MIB, 64 * MIB));
        assert_eq!((first(2, 2), first(4, 4), first(8, 8)), (16 * MIB, 4 * MIB, MIB));
        assert_eq!((first(16, 16), first(256, 256)), (FIRST_WINDOW, FIRST_WINDOW));
        assert_eq!((first(1, 64), first(1, 1024)), (8 * MIB, MIB / 2));
        let of_one: u64 = (1..=256).map(|n| first(n, n)).sum();
        assert!(of_one < 2 * FULL_WINDOW + 256 * FIRST_WINDOW, "{of_one}");
    }

    #[test]
    fn windows_that_are_measured_again_are_equal_shares_and_whole_when_the_others_are_gone() {
        const MIB: u64 = 1 << 20;
        assert_eq!((window_of(0, 0), window_of(1, 1), window_of(1, 8)), (64 * MIB, 64 * MIB, 64 * MIB));
        assert_eq!((window_of(2, 2), window_of(4, 8), window_of(16, 16)), (32 * MIB, 16 * MIB, 4 * MIB));
        assert_eq!((window_of(256, 256), window_of(1, 64)), (FIRST_WINDOW, 8 * MIB));
        for n in 1..=256 {
            assert!(n * window_of(n, n) <= FULL_WINDOW, "{n}");
        }
    }
}
