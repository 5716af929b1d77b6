"""The other end, by scapy: opens what it is given, seals the same inner packets itself. One JSON list in, one out."""

import json
import sys

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import raw

OUTER = IP(src="192.0.2.1", dst="192.0.2.2")


def answer(case):
    sa = SecurityAssociation(
        ESP,
        spi=case["spi"],
        crypt_algo="AES-GCM",
        crypt_key=bytes.fromhex(case["keymat"]),
        tunnel_header=OUTER,
        esn_en=case["esn"],
        esn=case["number"] >> 32,
    )
    sealed = bytes.fromhex(case["sealed"])
    carrier = IP(raw(IP(src=OUTER.src, dst=OUTER.dst, proto=50) / sealed))
    opened = sa.decrypt(carrier)

    inner = bytes.fromhex(case["inner"])
    inner = (IP if inner[0] >> 4 == 4 else IPv6)(inner)
    seq = case["number"] & 0xFFFFFFFF
    return {
        "opened": raw(opened).hex(),
        "next_header": carrier.proto,
        "same_iv": raw(sa.encrypt(inner, seq_num=seq, iv=sealed[8:16])[ESP]).hex(),
        "own_iv": raw(sa.encrypt(inner, seq_num=seq)[ESP]).hex(),
    }


json.dump([answer(case) for case in json.load(sys.stdin)], sys.stdout)
