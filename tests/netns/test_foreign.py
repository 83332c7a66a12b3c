"""What others' rules mean for ours, read from the real kernel: as nft writes them, and as iptables-nft does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from segctl_agent.nft.foreign import Finding, Weight, analyse
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.others import read_others
from segctl_agent.nft.plan import plan

from tests.decided import rendered
from tests.netns.samples import SHOP, SHOP_FACTS
from tests.netns.spaces import Space, run

pytestmark = pytest.mark.kernel

MASK = 0xFFFFFF80
NFT_CHAIN = "add table ip t; add chain ip t c { type filter hook output priority -150; }; add rule ip t c "
INTERFERES = {
    "ct mark set 0x1": "writes our bits of the conntrack mark (0xffffff80)",
    "ct mark set ct mark or 0x100": "(0x00000100)",
    "ct mark set ct mark and 0xffff": "(0xffff0000)",
    "ct mark set meta mark": "(0xffffff80)",
    "ct mark set meta mark and 0xff": "(0xffffff80)",
    "ip saddr 10.0.0.1 ct mark set numgen inc mod 4": "(0xffffff80)",
    "udp dport 53 notrack": "connection tracking",
}
HARMLESS = (
    "counter accept",
    "ct mark 0x1 accept",
    "ct mark set ct mark or 0x1",
    "ct mark set ct mark and 0xffffff80 or 0x3",
    "ct mark set ct mark xor 0x10",
    "meta mark set 0x5",
    "meta mark set ct mark and 0x7f",
    "meta l4proto tcp reject",
)
IPTABLES = {
    "-t mangle -A OUTPUT -j CONNMARK --set-mark 0x1": "(0xffffff80)",
    "-t mangle -A OUTPUT -j CONNMARK --set-xmark 0x100/0x100": "(0x00000100)",
    "-t mangle -A OUTPUT -j CONNMARK --save-mark": "(0xffffff80)",
    "-t mangle -A OUTPUT -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff": "(0x00000080)",
    "-t raw -A OUTPUT -p udp -j CT --notrack": "connection tracking",
    "-t raw -A OUTPUT -p udp -j NOTRACK": "connection tracking",
}
IPTABLES_HARMLESS = (
    "-t mangle -A OUTPUT -j CONNMARK --set-xmark 0x1/0xf",
    "-t mangle -A OUTPUT -j CONNMARK --save-mark --nfmask 0x7f --ctmask 0x7f",
    "-t mangle -A OUTPUT -j CONNMARK --restore-mark --nfmask 0x7f --ctmask 0x7f",
    "-t mangle -A OUTPUT -j MARK --set-mark 0x80000000",
    "-t filter -A OUTPUT -p tcp -m connmark --mark 0x1 -j ACCEPT",
)


def findings(mask: int = MASK) -> tuple[Finding, ...]:
    return analyse(read_others(), mask)


def only(weight: Weight) -> Finding:
    (found,) = findings()
    assert found.weight is weight
    return found


def test_rules_of_nft_that_interfere_and_such_that_do_not(space: Space) -> None:
    def host() -> None:
        for rule, words in INTERFERES.items():
            run("nft", NFT_CHAIN + rule)
            found = only(Weight.INTERFERES)
            assert words in str(found), rule
            assert str(found).startswith("table ip t, chain c "), rule
            run("nft", "delete table ip t")
        for rule in HARMLESS:
            run("nft", NFT_CHAIN + rule)
            assert findings() == (), rule
            run("nft", "delete table ip t")

    space.run(host)


def test_rules_of_iptables_nft(space: Space) -> None:
    def host() -> None:
        for command in ("iptables-nft", "ip6tables-nft"):
            for rule, words in IPTABLES.items():
                run(command, *rule.split())
                assert words in str(only(Weight.INTERFERES)), rule
                run("nft", "flush ruleset")
            for rule in IPTABLES_HARMLESS:
                run(command, *rule.split())
                assert findings() == (), rule
                run("nft", "flush ruleset")

    space.run(host)


def test_our_bits_in_the_packet_mark_and_chains_that_drop_are_told_as_information(space: Space) -> None:
    def host() -> None:
        run("nft", NFT_CHAIN + "meta mark set ct mark")
        assert "into the packet mark" in str(only(Weight.INFORMS))
        run("nft", "delete table ip t")
        run("iptables-nft", "-t", "mangle", "-A", "OUTPUT", "-j", "CONNMARK", "--restore-mark")
        assert "into the packet mark" in str(only(Weight.INFORMS))
        run("nft", "flush ruleset")
        run("nft", "add table inet f; add chain inet f i { type filter hook input priority 10; policy drop; }")
        assert "drops on input what it does not accept" in str(only(Weight.INFORMS))

    space.run(host)


def test_what_leaves_before_ip(space: Space) -> None:
    def host() -> None:
        run("nft", "add table netdev n; add chain netdev n i { type filter hook ingress device lo priority 0; }")
        run("nft", 'add rule netdev n i fwd to "lo"')
        assert "before they reach IP" in str(only(Weight.INTERFERES))

    space.run(host)


def test_our_own_table_is_none_of_the_others_and_many_rules_are_bounded(space: Space) -> None:
    def host() -> None:
        kernel = NetlinkKernel()
        kernel.apply(plan(None, rendered(SHOP, SHOP_FACTS, 1)))
        assert findings() == ()
        rules = "".join(f"add rule ip many c ip saddr 10.0.{i >> 8}.{i & 255} accept\n" for i in range(2000))
        run("nft", "-f", "-", stdin=f"add table ip many\nadd chain ip many c\n{rules}")
        assert findings() == ()
        (found,) = analyse(read_others(most=1000), MASK)
        assert "more rules than are looked through" in str(found)
        assert kernel.read() is not None  # its socket has no dump left over

    space.run(host)


def test_legacy_iptables_is_noted(space: Space) -> None:
    if subprocess.run(["which", "iptables-legacy"], capture_output=True).returncode:
        pytest.fail("iptables-legacy is missing: apt-get install iptables")

    def host() -> bool:
        done = subprocess.run(["iptables-legacy", "-A", "OUTPUT", "-j", "ACCEPT"], capture_output=True, text=True)
        if done.returncode:  # a kernel without CONFIG_IP_NF_IPTABLES_LEGACY: nothing can be there to be noted
            return not Path("/proc/net/ip_tables_names").exists() and findings() == ()
        return "legacy iptables" in str(only(Weight.INFORMS))

    assert space.run(host)
