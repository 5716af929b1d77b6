//! A port's link: who answers ARP for what here, and where the packets go (RFC 826).

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use vipsec_wire::arp::{self, Operation, Packet};
use vipsec_wire::ethernet::MacAddr;

use crate::time::Stamp;

/// How long an ARP request waits for its answer before it is sent again.
const REQUEST_INTERVAL: Duration = Duration::from_millis(250);

/// Where packets are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// To this station, as testpmd's `--eth-peer` says.
    Mac(MacAddr),
    /// To whoever answers for this address.
    Address(Ipv4Addr),
}

/// What is to be known of a port before it starts.
#[derive(Debug, Clone, Default)]
pub struct LinkPlan {
    /// Addresses that it answers for.
    pub addresses: Vec<IpAddr>,
    /// Where its packets go.
    pub next_hops: Vec<NextHop>,
}

#[derive(Debug)]
struct Hop {
    plan: NextHop,
    mac: Option<MacAddr>,
}

/// A port's link.
#[derive(Debug)]
pub struct Link {
    mac: MacAddr,
    addresses: Vec<Ipv4Addr>,
    hops: Vec<Hop>,
    /// Requests to be sent: (from, for).
    requests: VecDeque<(Ipv4Addr, Ipv4Addr)>,
    /// When those that got no answer are sent again.
    again_at: Stamp,
}

impl Link {
    /// A link on which nobody is known yet. Every address of ours asks for every next hop once, so that the other side knows us, too,
    /// before the first packet needs it (RFC 2544 §23 b: learning frames).
    pub fn new(mac: MacAddr, plan: &LinkPlan, now: Stamp) -> Self {
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        };
        let addresses: Vec<Ipv4Addr> = plan.addresses.iter().filter_map(v4).collect();
        let hop = |&plan: &NextHop| match plan {
            NextHop::Mac(mac) => Hop { plan, mac: Some(mac) },
            NextHop::Address(_) => Hop { plan, mac: None },
        };
        let hops: Vec<Hop> = plan.next_hops.iter().map(hop).collect();
        let asked = hops.iter().filter_map(|hop| match hop.plan {
            NextHop::Address(address) => Some(address),
            NextHop::Mac(_) => None,
        });
        // RFC 5227 §1.1: a probe has no sender address. It is what remains to those who have none.
        let askers = if addresses.is_empty() { vec![Ipv4Addr::UNSPECIFIED] } else { addresses.clone() };
        let requests = asked.flat_map(|hop| askers.iter().map(move |&asker| (asker, hop))).collect();
        Self { mac, addresses, hops, requests, again_at: now.after(REQUEST_INTERVAL) }
    }

    /// Our MAC address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Where the packets of the next hop with that number go.
    pub fn mac_of(&self, hop: usize) -> Option<MacAddr> {
        self.hops.get(hop).and_then(|hop| hop.mac)
    }

    /// The next hops that nobody answers for yet.
    pub fn unresolved(&self) -> impl Iterator<Item = NextHop> + '_ {
        self.hops.iter().filter(|hop| hop.mac.is_none()).map(|hop| hop.plan)
    }

    /// Is everybody known, and has everybody been told?
    pub fn is_ready(&self) -> bool {
        self.requests.is_empty() && self.unresolved().next().is_none()
    }

    /// An ARP packet came. Returns the answer that it asks for, as a frame.
    pub fn handle_arp(&mut self, packet: &Packet) -> Option<[u8; arp::FRAME_LEN]> {
        if packet.sender_mac == self.mac || packet.sender_mac.is_multicast() {
            return None;
        }
        // Answers and announcements alike: an address may move to another station while we send to it.
        for hop in &mut self.hops {
            if hop.plan == NextHop::Address(packet.sender_ip) {
                hop.mac = Some(packet.sender_mac);
            }
        }
        let asks_us = packet.operation == Operation::Request && self.addresses.contains(&packet.target_ip);
        asks_us.then(|| packet.reply_from(self.mac).to_frame(packet.sender_mac))
    }

    /// The next ARP request to send, as a frame.
    pub fn poll_request(&mut self, now: Stamp) -> Option<[u8; arp::FRAME_LEN]> {
        if self.requests.is_empty() && now >= self.again_at {
            self.again_at = now.after(REQUEST_INTERVAL);
            let asker = self.addresses.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED);
            let unresolved = self.hops.iter().filter(|hop| hop.mac.is_none());
            self.requests.extend(unresolved.filter_map(|hop| match hop.plan {
                NextHop::Address(address) => Some((asker, address)),
                NextHop::Mac(_) => None,
            }));
        }
        let (sender_ip, target_ip) = self.requests.pop_front()?;
        let request = Packet {
            operation: Operation::Request,
            sender_mac: self.mac,
            sender_ip,
            target_mac: MacAddr::default(),
            target_ip,
        };
        Some(request.to_frame(MacAddr::BROADCAST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vipsec_wire::ethernet::HEADER_LEN;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const VIP_MAC: MacAddr = MacAddr([2, 0x76, 0, 0, 0, 1]);
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const PEERS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 100), Ipv4Addr::new(192, 0, 2, 101)];
    const START: Stamp = Stamp::from_nanos(0);

    fn link() -> Link {
        let plan = LinkPlan { addresses: PEERS.map(IpAddr::V4).to_vec(), next_hops: vec![NextHop::Address(VIP)] };
        Link::new(MAC, &plan, START)
    }

    fn requests(link: &mut Link, now: Stamp) -> Vec<Packet> {
        std::iter::from_fn(|| link.poll_request(now))
            .map(|frame| Packet::parse(&frame[HEADER_LEN..]).unwrap())
            .collect()
    }

    fn announcement(mac: MacAddr) -> Packet {
        Packet::announcement(VIP, mac)
    }

    #[test]
    fn every_address_introduces_itself_once() {
        let mut link = link();
        assert!(!link.is_ready());
        let asked: Vec<_> =
            requests(&mut link, START).iter().map(|request| (request.sender_ip, request.target_ip)).collect();
        assert_eq!(asked, PEERS.map(|peer| (peer, VIP)));
        assert!(!link.is_ready(), "nobody has answered");
    }

    #[test]
    fn asks_again_until_somebody_answers() {
        let mut link = link();
        requests(&mut link, START);
        assert!(requests(&mut link, START.after(REQUEST_INTERVAL / 2)).is_empty());
        let later = START.after(REQUEST_INTERVAL);
        let again = requests(&mut link, later);
        assert_eq!(again.len(), 1);
        assert_eq!(link.handle_arp(&again[0].reply_from(VIP_MAC)), None);
        assert!(link.is_ready());
        assert_eq!(link.mac_of(0), Some(VIP_MAC));
        assert!(requests(&mut link, later.after(REQUEST_INTERVAL * 2)).is_empty());
    }

    #[test]
    fn follows_an_address_that_moves() {
        let mut link = link();
        link.handle_arp(&announcement(VIP_MAC));
        let other = MacAddr([2, 0x76, 0, 0, 0, 2]);
        link.handle_arp(&announcement(other));
        assert_eq!(link.mac_of(0), Some(other));
    }

    #[test]
    fn answers_for_its_own_addresses_only() {
        let mut link = link();
        let ask = |target_ip| Packet {
            operation: Operation::Request,
            sender_mac: VIP_MAC,
            sender_ip: VIP,
            target_mac: MacAddr::default(),
            target_ip,
        };
        let answer = link.handle_arp(&ask(PEERS[1])).expect("an answer");
        let reply = Packet::parse(&answer[HEADER_LEN..]).unwrap();
        assert_eq!((reply.operation, reply.sender_ip, reply.sender_mac), (Operation::Reply, PEERS[1], MAC));
        assert_eq!(link.handle_arp(&ask(Ipv4Addr::new(192, 0, 2, 102))), None);
        assert_eq!(link.handle_arp(&Packet { sender_mac: MAC, ..ask(PEERS[1]) }), None, "our own, come back");
    }

    #[test]
    fn a_given_mac_address_needs_no_question() {
        let plan = LinkPlan { addresses: Vec::new(), next_hops: vec![NextHop::Mac(VIP_MAC)] };
        let mut link = Link::new(MAC, &plan, START);
        assert!(link.is_ready() && requests(&mut link, START.after(REQUEST_INTERVAL)).is_empty());
        assert_eq!(link.mac_of(0), Some(VIP_MAC));
    }
}
