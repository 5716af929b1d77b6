//! A port's link: who answers for which address here, and where the packets go (RFC 826, RFC 4861).

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use vipsec_wire::arp::{self, Operation};
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::ndp::{self, Frame, Solicitation};

use crate::time::Stamp;

/// How long a request waits for its answer before it is sent again.
const REQUEST_INTERVAL: Duration = Duration::from_millis(250);

/// Where packets are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// To this station, as testpmd's `--eth-peer` says.
    Mac(MacAddr),
    /// To whoever answers for this address.
    Address(IpAddr),
}

/// What is to be known of a port before it starts.
#[derive(Debug, Clone, Default)]
pub struct LinkPlan {
    /// Addresses that it answers for.
    pub addresses: Vec<IpAddr>,
    /// Where its packets go.
    pub next_hops: Vec<NextHop>,
}

impl LinkPlan {
    /// The number of a next hop; it is added if it is new.
    pub fn next_hop(&mut self, hop: NextHop) -> usize {
        self.next_hops.iter().position(|&known| known == hop).unwrap_or_else(|| {
            self.next_hops.push(hop);
            self.next_hops.len() - 1
        })
    }
}

#[derive(Debug)]
struct Hop {
    plan: NextHop,
    mac: Option<MacAddr>,
}

impl Hop {
    /// The address whose station is not known yet.
    fn asked_for(&self) -> Option<IpAddr> {
        match self.plan {
            NextHop::Address(address) if self.mac.is_none() => Some(address),
            _ => None,
        }
    }
}

/// A port's link.
#[derive(Debug)]
pub struct Link {
    mac: MacAddr,
    addresses: Vec<IpAddr>,
    hops: Vec<Hop>,
    /// Requests to be sent: (from, for), of one family.
    requests: VecDeque<(IpAddr, IpAddr)>,
    /// When those that got no answer are sent again.
    again_at: Stamp,
}

impl Link {
    /// A link on which nobody is known yet. Every address of ours asks for every next hop once, so that the other side knows us, too,
    /// before the first packet needs it (RFC 2544 §23 b: learning frames).
    pub fn new(mac: MacAddr, plan: &LinkPlan, now: Stamp) -> Self {
        let hop = |&plan: &NextHop| match plan {
            NextHop::Mac(mac) => Hop { plan, mac: Some(mac) },
            NextHop::Address(_) => Hop { plan, mac: None },
        };
        let mut link = Self {
            mac,
            addresses: plan.addresses.clone(),
            hops: plan.next_hops.iter().map(hop).collect(),
            requests: VecDeque::new(),
            again_at: now.after(REQUEST_INTERVAL),
        };
        for hop in link.hops.iter().filter_map(Hop::asked_for) {
            let askers = link.addresses.iter().filter(|asker| asker.is_ipv4() == hop.is_ipv4());
            link.requests.extend(askers.map(|&asker| (asker, hop)));
            if !link.addresses.iter().any(|asker| asker.is_ipv4() == hop.is_ipv4()) {
                link.requests.push_back((nobody(hop), hop));
            }
        }
        link
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
    pub fn unresolved(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.hops.iter().filter_map(Hop::asked_for)
    }

    /// Is everybody known, and has everybody been told?
    pub fn is_ready(&self) -> bool {
        self.requests.is_empty() && self.unresolved().next().is_none()
    }

    /// An ARP packet came. Returns the answer that it asks for.
    pub fn handle_arp(&mut self, packet: &arp::Packet) -> Option<Frame> {
        self.learn(packet.sender_ip.into(), packet.sender_mac);
        let asks_us =
            packet.operation == Operation::Request && self.is_asked(packet.target_ip.into(), packet.sender_mac);
        asks_us.then(|| packet.reply_from(self.mac).to_frame(packet.sender_mac).into_iter().collect())
    }

    /// A message of neighbour discovery came, in a frame from `source`. Returns the answer that it asks for.
    pub fn handle_ndp(&mut self, message: &ndp::Message, source: MacAddr) -> Option<Frame> {
        match message {
            ndp::Message::Advertisement(advertisement) => {
                self.learn(advertisement.target.into(), advertisement.link_layer.unwrap_or(source));
                None
            }
            ndp::Message::Solicitation(solicitation) => {
                if let Some((address, mac)) = solicitation.source.zip(solicitation.link_layer) {
                    self.learn(address.into(), mac);
                }
                let asks_us = self.is_asked(solicitation.target.into(), source);
                asks_us.then(|| solicitation.answer(self.mac, false).to_frame(self.mac, source))
            }
        }
    }

    /// The next request to send.
    pub fn poll_request(&mut self, now: Stamp) -> Option<Frame> {
        if self.requests.is_empty() && now >= self.again_at {
            self.again_at = now.after(REQUEST_INTERVAL);
            let asker = |hop: IpAddr| {
                let own = self.addresses.iter().find(|own| own.is_ipv4() == hop.is_ipv4());
                own.copied().unwrap_or_else(|| nobody(hop))
            };
            self.requests.extend(self.hops.iter().filter_map(Hop::asked_for).map(|hop| (asker(hop), hop)));
        }
        match self.requests.pop_front()? {
            (IpAddr::V4(sender_ip), IpAddr::V4(target_ip)) => {
                let (operation, sender_mac) = (Operation::Request, self.mac);
                let target_mac = MacAddr::default();
                let request = arp::Packet { operation, sender_mac, sender_ip, target_mac, target_ip };
                Some(request.to_frame(MacAddr::BROADCAST).into_iter().collect())
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let mut question = Solicitation::new(source, self.mac, target);
                if source.is_unspecified() {
                    (question.source, question.link_layer) = (None, None);
                }
                Some(question.to_frame(self.mac, MacAddr::BROADCAST))
            }
            _ => None,
        }
    }

    /// Answers and announcements alike are believed: an address may move to another station while we send to it.
    fn learn(&mut self, address: IpAddr, mac: MacAddr) {
        if mac == self.mac || mac.is_multicast() {
            return;
        }
        for hop in self.hops.iter_mut().filter(|hop| hop.plan == NextHop::Address(address)) {
            hop.mac = Some(mac);
        }
    }

    /// Is it an address of ours that somebody else asks for?
    fn is_asked(&self, target: IpAddr, asker: MacAddr) -> bool {
        asker != self.mac && !asker.is_multicast() && self.addresses.contains(&target)
    }
}

/// Who asks for `address` without an address of his own: what RFC 5227 §1.1 calls a probe, and RFC 4862 §5.4 duplicate address
/// detection.
fn nobody(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arp::Packet;
    use vipsec_wire::ethernet::HEADER_LEN;
    use vipsec_wire::ip;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const VIP_MAC: MacAddr = MacAddr([2, 0x76, 0, 0, 0, 1]);
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const PEERS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 100), Ipv4Addr::new(192, 0, 2, 101)];
    const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
    const START: Stamp = Stamp::from_nanos(0);

    fn link() -> Link {
        let next_hops = vec![NextHop::Address(VIP.into())];
        Link::new(MAC, &LinkPlan { addresses: PEERS.map(IpAddr::V4).to_vec(), next_hops }, START)
    }

    fn link_v6() -> Link {
        let next_hops = vec![NextHop::Address(VIP6.into())];
        Link::new(MAC, &LinkPlan { addresses: vec![PEER6.into()], next_hops }, START)
    }

    fn requests(link: &mut Link, now: Stamp) -> Vec<Packet> {
        let frames = std::iter::from_fn(|| link.poll_request(now));
        frames.map(|frame| Packet::parse(&frame[HEADER_LEN..]).unwrap()).collect()
    }

    fn solicitation(frame: &Frame) -> Solicitation {
        match message(frame) {
            ndp::Message::Solicitation(solicitation) => solicitation,
            other => panic!("{other:?}"),
        }
    }

    fn message(frame: &Frame) -> ndp::Message {
        let packet = &frame[HEADER_LEN..];
        ndp::Message::parse(&ip::Header::parse(packet).unwrap(), packet).unwrap()
    }

    #[test]
    fn every_address_introduces_itself_once() {
        let mut link = link();
        assert!(!link.is_ready());
        let asked = requests(&mut link, START);
        let asked: Vec<_> = asked.iter().map(|request| (request.sender_ip, request.target_ip)).collect();
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
    fn asks_without_an_address_where_it_has_none() {
        let next_hops = vec![NextHop::Address(VIP.into()), NextHop::Address(VIP6.into())];
        let mut link = Link::new(MAC, &LinkPlan { addresses: Vec::new(), next_hops }, START);
        let probe = Packet::parse(&link.poll_request(START).unwrap()[HEADER_LEN..]).unwrap();
        assert_eq!((probe.sender_ip, probe.target_ip), (Ipv4Addr::UNSPECIFIED, VIP));
        let probe = solicitation(&link.poll_request(START).unwrap());
        assert_eq!((probe.source, probe.target, probe.link_layer), (None, VIP6, None));
    }

    #[test]
    fn finds_an_ipv6_next_hop() {
        let mut link = link_v6();
        let question = solicitation(&link.poll_request(START).unwrap());
        assert_eq!((question.source, question.target, question.link_layer), (Some(PEER6), VIP6, Some(MAC)));
        let answer = ndp::Message::Advertisement(question.answer(VIP_MAC, true));
        assert_eq!(link.handle_ndp(&answer, VIP_MAC), None);
        assert!(link.is_ready());
        assert_eq!(link.mac_of(0), Some(VIP_MAC));
    }

    #[test]
    fn follows_an_address_that_moves() {
        let other = MacAddr([2, 0x76, 0, 0, 0, 2]);
        let mut link = link();
        for mac in [VIP_MAC, other] {
            link.handle_arp(&Packet::announcement(VIP, mac));
            assert_eq!(link.mac_of(0), Some(mac));
        }
        let mut link = link_v6();
        for mac in [VIP_MAC, other] {
            let announcement = ndp::Advertisement::unsolicited(VIP6, mac, true);
            link.handle_ndp(&ndp::Message::Advertisement(announcement), mac);
            assert_eq!(link.mac_of(0), Some(mac));
        }
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

        let mut link = link_v6();
        let ask = |target| ndp::Message::Solicitation(Solicitation::new(VIP6, VIP_MAC, target));
        let answer = link.handle_ndp(&ask(PEER6), VIP_MAC).expect("an answer");
        let ndp::Message::Advertisement(reply) = message(&answer) else { panic!("{answer:?}") };
        assert_eq!((reply.target, reply.link_layer, reply.destination), (PEER6, Some(MAC), VIP6));
        assert_eq!(link.handle_ndp(&ask(VIP6), VIP_MAC), None);
    }

    #[test]
    fn a_given_mac_address_needs_no_question() {
        let plan = LinkPlan { addresses: Vec::new(), next_hops: vec![NextHop::Mac(VIP_MAC)] };
        let mut link = Link::new(MAC, &plan, START);
        assert!(link.is_ready() && requests(&mut link, START.after(REQUEST_INTERVAL)).is_empty());
        assert_eq!(link.mac_of(0), Some(VIP_MAC));
    }
}
