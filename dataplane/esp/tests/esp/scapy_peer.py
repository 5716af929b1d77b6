"""The other end, by scapy: opens what it is given, seals the same payloads itself. One JSON list in, one out."""

import json
import sys

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw, raw

OUTER = IP(src="192.0.2.1", dst="192.0.2.2")
HEADER_LEN = {4: 20, 6: 40}


def datagram(version, protocol, payload):
    """What transport mode protects is the payload of such a packet."""
    if version == 4:
        packet = IP(src="192.0.2.1", dst="192.0.2.2", proto=protocol) / Raw(payload)
        return IP(raw(packet))
    packet = IPv6(src="2001:db8::1", dst="2001:db8::2", nh=protocol) / Raw(payload)
    return IPv6(raw(packet))


def answer(case):
    tunnel = case["mode"] == "tunnel"
    sa = SecurityAssociation(
        ESP,
        spi=case["spi"],
        crypt_algo=case["algorithm"],
        crypt_key=bytes.fromhex(case["keymat"]),
        tunnel_header=OUTER if tunnel else None,
        esn_en=case["esn"],
        esn=case["number"] >> 32,
    )
    version, payload = case["version"], bytes.fromhex(case["payload"])
    sealed = bytes.fromhex(case["sealed"])

    carrier = datagram(4 if tunnel else version, 50, sealed)
    opened = sa.decrypt(carrier)
    if tunnel:
        opened_payload, next_header = raw(opened), carrier.proto
        clear = (IP if version == 4 else IPv6)(payload)
    else:
        opened_payload = raw(opened)[HEADER_LEN[version]:]
        next_header = opened.proto if version == 4 else opened.nh
        clear = datagram(version, case["next_header"], payload)

    seq = case["number"] & 0xFFFFFFFF
    return {
        "opened": opened_payload.hex(),
        "next_header": next_header,
        "same_iv": raw(sa.encrypt(clear.copy(), seq_num=seq, iv=sealed[8:16])[ESP]).hex(),
        "own_iv": raw(sa.encrypt(clear.copy(), seq_num=seq)[ESP]).hex(),
    }


json.dump([answer(case) for case in json.load(sys.stdin)], sys.stdout)
