"""Scapy as the other implementation: it builds packets, takes ours apart, splits and joins. A JSON list of questions in, one of answers out."""

import json
import sys

from scapy.config import conf
from scapy.layers.inet import (
    ICMP,
    IP,
    TCP,
    UDP,
    IPOption_LSRR,
    IPOption_NOP,
    IPOption_RR,
    IPOption_Router_Alert,
    IPOption_SSRR,
    defragment,
    fragment,
)
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
    defragment6,
    fragment6,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import NoPayload, raw

# A packet that scapy can't take apart is a failure, not raw bytes.
conf.debug_dissector = 1

EXTENSIONS = (IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment)
MADE = {"chksum", "cksum", "len", "plen"}


def value(field):
    if isinstance(field, bytes):
        return field.hex()
    if isinstance(field, (int, str)) or field is None:
        return field
    return str(field)


def layers(packet):
    """Each layer's name and fields, outermost first."""
    while packet and not isinstance(packet, NoPayload):
        yield packet
        packet = packet.payload


def build(question):
    """What the expression makes, and what scapy reads in it again."""
    packet = eval(question["expression"])  # the questions are this test's own
    made = raw(packet)
    return {"bytes": made.hex(), **read({"bytes": made.hex(), "layer": type(packet).__name__})}


def read(question):
    """The layers of a packet, where its upper layer begins, and the same packet with all lengths and checksums made anew."""
    made = bytes.fromhex(question["bytes"])
    packet = globals()[question["layer"]](made)
    found, upper, at = [], None, 0
    for layer in layers(packet):
        found.append([type(layer).__name__, {f.name: value(layer.getfieldval(f.name)) for f in layer.fields_desc}])
        if upper is None and not isinstance(layer, (Ether, IP, IPv6, *EXTENSIONS)):
            upper = len(made) - len(raw(layer))
    again = packet.copy()
    for layer in layers(again):
        if "error" in type(layer).__name__:
            break  # a quoted packet stays as it was
        for field in layer.fields_desc:
            if field.name in MADE:
                layer.delfieldval(field.name)
    return {"layers": found, "upper": upper, "again": raw(again).hex()}


def split(question):
    packet = bytes.fromhex(question["bytes"])
    if packet[0] >> 4 == 4:
        return {"fragments": [raw(piece).hex() for piece in fragment(IP(packet), fragsize=question["size"])]}
    # Scapy wants to be shown where the fragment header goes: in front of the fragmentable part.
    carrier = IPv6(packet)
    payload = carrier.payload
    carrier.remove_payload()
    marked = carrier / IPv6ExtHdrFragment(id=question["id"]) / payload
    del marked.plen
    marked.nh = 44
    return {"fragments": [raw(piece).hex() for piece in fragment6(marked, question["size"])]}


def join(question):
    pieces = [bytes.fromhex(piece) for piece in question["fragments"]]
    if pieces[0][0] >> 4 == 4:
        whole = defragment([IP(piece) for piece in pieces])
        return {"packets": [raw(packet).hex() for packet in whole]}
    whole = defragment6([IPv6(piece) for piece in pieces])
    return {"packets": [raw(whole).hex()]}


ANSWERS = {"build": build, "read": read, "split": split, "join": join}

if __name__ == "__main__":
    questions = json.load(sys.stdin)
    json.dump([ANSWERS[question["op"]](question) for question in questions], sys.stdout)
