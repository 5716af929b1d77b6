#!/usr/bin/python3
"""A recorded strongSwan session, played to vipsecd.

    session.py inputs CASE RUN      writes RUN/{outside,inside}-rx.pcap from CASE/session.pcap
    session.py check CASE RUN       judges RUN/{outside,inside}-tx.pcap and the drops in RUN/stdout

Outside it gets the peer's packets as they were on the wire, but for the destination's MAC address. Inside it gets what the recorded
gateway answered, out of its ESP again, as if the targets had sent it. scapy opens and compares, tshark opens and checks once more.
"""
from collections import defaultdict
from zlib import crc32

from scapy.layers.inet import ICMP, TCP

from common import *


class Session:
    """CASE/session.pcap, opened."""

    def __init__(self, case):
        self.inbound, self.outbound = child_sa(case)
        recorded = [(frame, packet) for frame in frames(case / "session.pcap") if is_esp(packet := ipv4(frame))]
        self.from_peer = [frame for frame, packet in recorded if IP(packet).src == PEER]
        self.requests = [self.inbound.open(packet) for _, packet in recorded if IP(packet).src == PEER]
        replies = [self.outbound.open(packet) for _, packet in recorded if IP(packet).src == VIP]
        # Echo requests to the VIP are the appliance's own to answer: no target sees them.
        self.requests, self.echo_requests = apart(self.requests)
        self.replies, self.echo_replies = apart(replies)
        assert min(len(self.requests), len(self.replies)) > 100 and self.echo_requests, "too little in session.pcap"


def is_esp(packet):
    """ESP in UDP: port 4500, no non-ESP marker, no keepalive (RFC 3948 section 2)."""
    return packet[9:10] == b"\x11" and packet[20:24] == b"\x11\x94\x11\x94" and len(packet) > 32 and packet[28:32] != bytes(4)


def apart(packets):
    """Those that aren't ICMP, and those that are."""
    return [packet for packet in packets if packet[9] != 1], [packet for packet in packets if packet[9] == 1]


def echo(packet):
    """What an echo reply has to say; identification, TTL and so on are its sender's."""
    packet = IP(packet)
    return packet.src, packet.dst, raw(packet[ICMP]).hex()


def flow(packet):
    """What has to stay on one target: addresses, protocol and ports."""
    packet = IP(packet)
    ports = (packet.sport, packet.dport) if TCP in packet or UDP in packet else ()
    return packet.src, packet.dst, packet.proto, *ports


def inputs(case, run):
    session = Session(case)
    vip_mac = bytes.fromhex(VIP_MAC.replace(":", ""))
    write_frames(run / "outside-rx.pcap", greetings({PEER: PEER_MAC}, VIP) + [vip_mac + frame[6:] for frame in session.from_peer])
    macs = list(TARGETS.values())
    replies = [Ether(src=macs[crc32(repr(flow(packet)).encode()) % len(macs)], dst=GATEWAY_MAC) / IP(packet) for packet in session.replies]
    write_frames(run / "inside-rx.pcap", greetings(TARGETS, GATEWAY) + replies)


def check(case, run):
    session, failures = Session(case), Failures()
    check_inside(session, run / "inside-tx.pcap", failures)
    check_outside(session, run / "outside-tx.pcap", failures)
    for number, found in enumerate(tshark(run / "outside-rx.pcap", ["arp.opcode", "esp.icv_good"], [session.inbound]), 1):
        failures.check(found["arp.opcode"] or found["esp.icv_good"] == "1", f"input: frame {number}: tshark finds a wrong ICV")
    drops, _ = counted(run)
    failures.equal("drops", dict(drops), {})
    failures.report()
    print(f"{len(session.requests)} packets in, {len(session.replies)} out, {len(session.echo_replies)} echo replies")


def check_inside(session, capture, failures):
    sent = [frame for frame in frames(capture) if not is_arp(frame)]
    failures.same_packets("inside", [ipv4(frame) for frame in sent], [forwarded(packet) for packet in session.requests])
    targets = defaultdict(set)
    for frame in map(Ether, sent):
        targets[flow(raw(frame.payload))].add(frame.dst)
        failures.equal("inside: source MAC", frame.src, GATEWAY_MAC)
    for tuple_, macs in targets.items():
        failures.check(len(macs) == 1 and macs <= set(TARGETS.values()), f"inside: {tuple_} went to {macs}, which is not one target")
    used = set.union(*targets.values()) if targets else set()
    failures.equal("inside: targets used", used, set(TARGETS.values()))
    check_arp(capture, GATEWAY, GATEWAY_MAC, TARGETS, failures)
    for n, fields in enumerate(tshark(capture, ["ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "icmp.checksum.status"]), 1):
        failures.check("0" not in fields.values(), f"inside: tshark finds a wrong checksum in frame {n}: {fields}")


def check_outside(session, capture, failures):
    sent = [Ether(frame) for frame in frames(capture) if not is_arp(frame)]
    opened = []
    for number, frame in enumerate(sent, 1):
        packet = raw(frame.payload)
        failures.equal(f"outside: packet {number}: MAC addresses", (frame.src, frame.dst), (VIP_MAC, PEER_MAC))
        failures.equal(f"outside: packet {number}: addresses", (frame[IP].src, frame[IP].dst), (VIP, PEER))
        failures.equal(f"outside: packet {number}: IP and UDP length", (frame[IP].len, frame[UDP].len), (len(packet), len(packet) - 20))
        # RFC 3948 section 2.1: "the IPv4 UDP Checksum SHOULD be transmitted as a zero value".
        failures.equal(f"outside: packet {number}: UDP ports and checksum", (frame[UDP].sport, frame[UDP].dport, frame[UDP].chksum), (4500, 4500, 0))
        try:
            opened.append(session.outbound.open(packet))
            # RFC 4301 section 5.1.2.1, RFC 6040 section 4.1: the inner header's DSCP and ECN are copied.
            failures.equal(f"outside: packet {number}: traffic class", frame[IP].tos, opened[-1][1])
        except Exception as error:
            failures.check(False, f"outside: scapy can't open packet {number}: {error!r} {packet.hex()}")
    others, echoes = apart(opened)
    failures.same_packets("outside", others, [forwarded(packet) for packet in session.replies])
    failures.equal("outside: echo replies", sorted(map(echo, echoes)), sorted(map(echo, session.echo_replies)))
    esp = [raw(frame[UDP].payload) for frame in sent if UDP in frame]
    failures.equal("outside: sequence numbers", [int.from_bytes(packet[4:8], "big") for packet in esp], list(range(1, len(esp) + 1)))
    ivs = [packet[8:16] for packet in esp]
    failures.equal("outside: distinct IVs", len(set(ivs)), len(ivs))
    failures.equal("outside: IVs: appliance id", {iv[0] for iv in ivs}, {APPLIANCE_ID})
    failures.equal("outside: IVs: epochs", len({iv[1:3] for iv in ivs}), 1)
    failures.equal("outside: IVs: numbers", [int.from_bytes(iv[3:], "big") for iv in ivs], list(range(1, len(esp) + 1)))
    check_arp(capture, VIP, VIP_MAC, {PEER: PEER_MAC}, failures)
    check_with_tshark(session, capture, failures)


def check_with_tshark(session, capture, failures):
    """ICV, padding (RFC 4303 section 2.4: 1, 2, 3, ...; RFC 4106 section 3.2: less than four octets), checksums outside and inside."""
    fields = ["arp.opcode", "esp.icv_good", "esp.pad", "esp.protocol", "ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "icmp.checksum.status"]
    for number, found in enumerate(tshark(capture, fields, [session.outbound]), 1):
        if found["arp.opcode"]:
            continue
        failures.equal(f"outside: frame {number}: tshark on the ICV", found["esp.icv_good"], "1")
        failures.check(found["esp.pad"] in ("", "01", "0102", "010203"), f"outside: frame {number}: tshark finds padding {found['esp.pad']}")
        failures.equal(f"outside: frame {number}: tshark on the next header", found["esp.protocol"], "0x04")
        checksums = [status for name in fields[4:] for status in found[name].split(",")]
        failures.check("0" not in checksums, f"outside: tshark finds a wrong checksum in frame {number}: {found}")


def check_arp(capture, address, mac, askers, failures):
    """Every request of the greetings is answered to the asker, from the virtual MAC address."""
    replies = [Ether(frame) for frame in frames(capture) if is_arp(frame) and frame[20:22] == b"\x00\x02"]
    answers = defaultdict(int)
    for reply in replies:
        if reply[ARP].psrc == address and reply[ARP].pdst in askers:
            asker = askers[reply[ARP].pdst]
            failures.equal(f"{capture.stem}: ARP reply for {address}", (reply.dst, reply[ARP].hwsrc, reply[ARP].hwdst), (asker, mac, asker))
            answers[reply[ARP].pdst] += 1
    failures.equal(f"{capture.stem}: ARP requests answered", dict(answers), {asker: GREETINGS // len(askers) for asker in askers})


if __name__ == "__main__":
    main(__doc__, inputs, check)
