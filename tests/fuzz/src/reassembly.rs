//! Fragments of a few datagrams in any order, and rubbish between them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use vipsec_dataplane::reassembly::{Dropped, Limits, Origin, Progress, Reassembler};
use vipsec_wire::buffer::{PacketBuf, VecBuf, VecPool};
use vipsec_wire::ip::{Header, protocol};
use vipsec_wire::ipv6::{FragmentHeader, extension::FRAGMENT_HEADER_LEN};
use vipsec_wire::{ipv4, ipv6};

/// Length of one instruction in bytes.
const STEP: usize = 4;

const LIMITS: Limits = Limits { datagrams_max: 3, timeout: Duration::from_millis(100) };

/// Few buffers, so that they run out.
const BUFFERS: usize = 4;

/// The input is a list of instructions of four bytes:
///
/// ```text
/// 0: family (1 bit), more fragments (1), other content (1), ECN (2), datagram (3)
/// 1: offset in units of eight bytes
/// 2: length in units of eight bytes; the highest bit: one byte less
/// 3: time that passes afterwards in ms; 255: the rest of the input is a packet as it is
/// ```
///
/// Whatever they are: each packet that goes in comes out or is counted, no buffer is lost, and what comes out is sound.
pub(crate) fn reassembly(bytes: &[u8]) {
    let mut pool = VecPool::new(BUFFERS);
    let mut scene = Scene { reassembler: Reassembler::new(&LIMITS, 7), now: Instant::now(), received: 0, out: 0 };
    let mut rest = bytes;
    while let Some((&[first, offset, len, time], behind)) = rest.split_first_chunk::<STEP>() {
        rest = behind;
        if time == 255 {
            scene.receive(behind, &mut pool);
            break;
        }
        scene.receive(&fragment(first, offset, len), &mut pool);
        scene.pass(Duration::from_millis(u64::from(time)));
        assert_eq!(scene.out + scene.waiting(&pool), scene.received, "each packet is somewhere");
    }
    scene.pass(LIMITS.timeout);
    assert!(scene.reassembler.is_empty());
    assert_eq!((scene.out, pool.in_use()), (scene.received, 0));
}

struct Scene {
    reassembler: Reassembler<VecBuf>,
    now: Instant,
    received: usize,
    out: usize,
}

impl Scene {
    fn receive(&mut self, packet: &[u8], pool: &mut VecPool) {
        self.received += 1;
        match self.reassembler.handle_fragment(self.now, Origin(0), packet, pool) {
            Ok(Progress::Held) => {}
            Ok(Progress::Whole { packet, fragments }) => {
                check(packet.data());
                self.out += fragments;
            }
            Ok(Progress::HeldInstead(dropped)) | Err(dropped) => self.count(&dropped),
        }
        assert!(self.reassembler.len() <= LIMITS.datagrams_max);
    }

    fn count(&mut self, dropped: &Dropped<VecBuf>) {
        assert!(dropped.fragments > 0);
        if let Some(first) = &dropped.first {
            let header = Header::parse(first.data()).expect("as it came");
            assert!(header.fragment.is_some_and(|fragment| fragment.offset == 0 && fragment.more));
        }
        self.out += dropped.fragments;
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        while let Some(dropped) = self.reassembler.handle_timeout(self.now) {
            self.count(&dropped);
        }
    }

    /// Packets that are held, seen from outside: whatever isn't out yet, and none without a buffer.
    fn waiting(&self, pool: &VecPool) -> usize {
        let held = self.received - self.out;
        assert_eq!(held == 0, pool.in_use() == 0);
        held
    }
}

/// A datagram is whole: right lengths and checksum, no trace of fragments, and content from where it belongs.
fn check(packet: &[u8]) {
    let header = Header::parse(packet).expect("sound");
    assert_eq!((header.fragment, header.total_len), (None, packet.len()));
    let payload = header.payload(packet);
    for (at, byte) in payload.iter().enumerate() {
        assert!(*byte == content(at, 0) || *byte == content(at, 1), "byte {at} is from elsewhere");
    }
}

fn content(at: usize, variant: u8) -> u8 {
    (at * 31 + at / 256) as u8 ^ variant
}

fn fragment(first: u8, offset: u8, len: u8) -> Vec<u8> {
    let (is_v6, more, variant) = (first & 1 != 0, first & 2 != 0, first >> 2 & 1);
    let (ecn, datagram) = (first >> 3 & 0b11, first >> 5);
    let offset = u16::from(offset) * 8;
    let len = (u16::from(len & 0x7f) * 8).saturating_sub(u16::from(len >> 7));
    let mut packet = Vec::new();
    if is_v6 {
        packet.resize(ipv6::HEADER_LEN + FRAGMENT_HEADER_LEN, 0);
        let (front, back) = packet.split_at_mut(ipv6::HEADER_LEN);
        let payload_len = FRAGMENT_HEADER_LEN as u16 + len;
        let mut header = ipv6::Repr::new(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, protocol::FRAGMENT, payload_len);
        header.traffic_class = ecn;
        header.emit(front).expect("room");
        let identification = u32::from(datagram);
        let header = FragmentHeader { next_header: protocol::UDP, offset, more_fragments: more, identification };
        header.emit(back).expect("room");
    } else {
        packet.resize(ipv4::HEADER_LEN, 0);
        let mut header = ipv4::Repr::new(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, protocol::UDP, len);
        header.traffic_class = ecn;
        header.identification = u16::from(datagram);
        (header.fragment_offset, header.more_fragments) = (offset, more);
        header.emit(&mut packet).expect("room");
    }
    packet.extend((usize::from(offset)..usize::from(offset + len)).map(|at| content(at, variant)));
    packet
}
