//! A whole worker: any frame at any port, packets of peers that hold the keys, commands of the control core, and time, in any order.

mod far;
mod scene;
mod tables;

use std::time::Duration;

use far::ChildKind;
use scene::{INSIDE, OUTSIDE, Scene};
use vipsec_dataplane::api::PortId;
use vipsec_wire::ip::protocol;

use crate::repair;

/// What ESP may say that it carries, beside a whole IP packet.
const NEXT_HEADERS: [u8; 8] = [
    protocol::NO_NEXT_HEADER,
    protocol::UDP,
    protocol::TCP,
    protocol::ICMP,
    protocol::ICMPV6,
    protocol::ESP,
    protocol::FRAGMENT,
    0,
];

/// Longest frame or packet of an instruction, in bytes: what a port of 1500 bytes gives and something more.
const LEN_MAX: usize = 1600;

/// The input is a list of instructions:
///
/// ```text
/// 0 port len(2) bytes          a frame as it is
/// 1 flags len(2) bytes         an IP packet in a good frame to the VIP, or (bit 0) to the inside gateway; bit 1: with a good checksum
/// 2 peer flags len(2) bytes    a peer seals that as a packet (bit 0: IPv6; bit 1: with a good checksum; bit 2: as one of NEXT_HEADERS)
/// 3 peer ports flags len       a peer or (bit 0) a target sends a whole packet: (bit 1: IPv6, 2: TCP, 3: SYN, 4: DF, 5: dying)
/// 4                            what a peer sent last comes once more
/// 5 peer kind                  a child SA is installed, in place of one that the peer had
/// 6 peer                       and removed
/// 7 peer room                  a grant; 255: without limit
/// 8 peer                       its SA is bound
/// 9 tables                     other tables are in force
/// 10 time                      time passes, in units of 20 ms; 255: the deadline passes too
/// 11 flags                     what waits leaves; bit 0: neighbours don't answer
/// 12 peer what                 the rest of the commands
/// ```
///
/// Whatever they are: what leaves is sound, no number is used twice, and no buffer is lost.
pub(crate) fn worker(bytes: &[u8]) {
    let mut scene = Scene::new();
    let mut input = Input(bytes);
    while step(&mut scene, &mut input).is_some() {
        scene.drain_events();
    }
    scene.settle();
}

/// `None`: the input is at its end.
fn step(scene: &mut Scene, input: &mut Input<'_>) -> Option<()> {
    match input.byte()? % 13 {
        0 => {
            let port = PortId(input.byte()? % 4);
            scene.receive(port, input.packet()?);
        }
        1 => {
            let flags = input.byte()?;
            let mut packet = input.packet()?.to_vec();
            if flags & 2 != 0 {
                repair::icmp(&mut packet);
            }
            scene.receive_ip(if flags & 1 != 0 { INSIDE } else { OUTSIDE }, &packet);
        }
        2 => {
            let (peer, flags) = (input.byte()?, input.byte()?);
            let mut packet = input.packet()?.to_vec();
            if flags & 2 != 0 {
                repair::icmp(&mut packet);
            }
            let next_header = match flags & 0b101 {
                0 => protocol::IPV4,
                1 => protocol::IPV6,
                _ => NEXT_HEADERS[usize::from(flags >> 3 & 0b111)],
            };
            scene.seal(peer, &packet, Some(next_header));
        }
        3 => {
            let (peer, ports, flags, len) = (input.byte()?, input.byte()?, input.byte()?, input.byte()?);
            let packet = far::packet(peer, ports, flags, len);
            match flags & 1 {
                0 => scene.seal(peer, &packet, None),
                _ => scene.receive_ip(INSIDE, &packet),
            }
        }
        4 => scene.repeat(),
        5 => scene.install(input.byte()?, ChildKind(input.byte()?)),
        6 => scene.remove(input.byte()?),
        7 => scene.grant(input.byte()?, input.byte()?),
        8 => scene.bind(input.byte()?),
        9 => scene.use_tables(input.byte()?),
        10 => match input.byte()? {
            255 => scene.pass_the_deadline(),
            time => scene.pass(Duration::from_millis(20) * u32::from(time)),
        },
        11 => scene.transmit(input.byte()? & 1 == 0),
        _ => scene.order(input.byte()?, input.byte()?),
    }
    Some(())
}

/// What is still to be read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// Its length in two bytes, then itself, as far as it goes.
    fn packet(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(u16::from_be_bytes([self.byte()?, self.byte()?]));
        let (packet, rest) = self.0.split_at(len.min(LEN_MAX).min(self.0.len()));
        self.0 = rest;
        Some(packet)
    }
}
