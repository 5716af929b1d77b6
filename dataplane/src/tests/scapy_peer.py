"""A remote peer by scapy: seals packets into whole IP packets to the VIP, opens those from it. One JSON list of cases in, one out."""

import json
import sys

from scapy.config import conf
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import raw

conf.debug_dissector = 1


def ip(packet):
    return (IP if packet[0] >> 4 == 4 else IPv6)(packet)


def header(source, destination):
    return (IPv6 if ":" in source else IP)(src=source, dst=destination)


def security_association(case, source, destination):
    return SecurityAssociation(
        ESP,
        spi=case["spi"],
        crypt_algo=case["algorithm"],
        crypt_key=bytes.fromhex(case["keymat"]),
        tunnel_header=header(source, destination) if case["tunnel"] else None,
        esn_en=case["esn"],
    )


def at(sa, number):
    # Not as arguments: scapy takes a zero there for none.
    sa.seq_num, sa.esn = number & 0xFFFFFFFF, number >> 32
    return sa


def seal(case):
    sa = security_association(case, case["peer"], case["vip"])
    for number, packet in case["packets"]:
        sealed = at(sa, number).encrypt(ip(bytes.fromhex(packet)))
        if case["udp"]:
            # Scapy's own encapsulation leaves the checksum out, which IPv6 doesn't allow (RFC 8200 section 8.1).
            local, remote = case["udp"]
            sealed = header(case["peer"], case["vip"]) / UDP(sport=remote, dport=local) / raw(sealed[ESP])
        yield raw(sealed)


def open_(case):
    sa = security_association(case, case["vip"], case["peer"])
    for number, packet in case["packets"]:
        received = ip(bytes.fromhex(packet))
        assert raw(made_anew(received)) == raw(received), "a length or checksum is wrong"
        assert (received.src, received.dst) == (case["vip"], case["peer"])
        if case["udp"]:
            assert [received[UDP].sport, received[UDP].dport] == case["udp"]
            esp = ESP(raw(received[UDP].payload))
        else:
            esp = received[ESP]
        assert esp.seq == number & 0xFFFFFFFF
        # What scapy opens has no UDP between.
        carrier = received.copy()
        carrier.remove_payload()
        carrier.fields["proto" if carrier.version == 4 else "nh"] = 50
        yield raw(at(sa, number).decrypt(ip(raw(made_anew(carrier / esp)))))


def made_anew(packet):
    """With lengths and checksums of scapy's; a UDP checksum of zero is none (RFC 3948 section 2.1), and stays."""
    packet = packet.copy()
    for layer in (packet, packet.payload):
        for made in ("len", "plen", "chksum"):
            if layer.fields.get(made):
                layer.delfieldval(made)
    return packet


ANSWERS = {"seal": seal, "open": open_}

json.dump([[packet.hex() for packet in ANSWERS[case["op"]](case)] for case in json.load(sys.stdin)], sys.stdout)
