"""What network policies let through: the rules of networking.k8s.io/v1, as far as the manifests use them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """An end of a connection; without a namespace it is an address outside of the cluster's pods."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ip: str = "10.1.2.3"


@dataclass(frozen=True)
class World:
    """Policies, and the labels of namespaces beyond the one that Kubernetes gives."""

    policies: tuple[Policy, ...]
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def without(self, namespace: str, name: str) -> World:
        left = tuple(one for one in self.policies if key(one) != (namespace, name))
        assert len(left) == len(self.policies) - 1
        return World(left, self.namespaces)

    def allows(self, source: Pod, destination: Pod, port: int, protocol: str = "TCP") -> bool:
        return self.leaves(source, destination, port, protocol) and self.enters(source, destination, port, protocol)

    def leaves(self, source: Pod, destination: Pod, port: int, protocol: str = "TCP") -> bool:
        return self._passes("Egress", source, destination, port, protocol)

    def enters(self, source: Pod, destination: Pod, port: int, protocol: str = "TCP") -> bool:
        return self._passes("Ingress", destination, source, port, protocol)

    def _passes(self, direction: str, of: Pod, other: Pod, port: int, protocol: str) -> bool:
        """One direction: what no policy selects is open, else one rule must allow it."""
        selecting = [
            one
            for one in self.policies
            if one["metadata"]["namespace"] == of.namespace
            and direction in one["spec"]["policyTypes"]
            and selects(one["spec"]["podSelector"], of.labels)
        ]
        side, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
        return not selecting or any(
            self._named(rule.get(peers), one["metadata"]["namespace"], other) and _port(rule, port, protocol)
            for one in selecting
            for rule in one["spec"].get(side, [])
        )

    def _named(self, peers: list[Mapping[str, Any]] | None, namespace: str, pod: Pod) -> bool:
        return not peers or any(self._is(peer, namespace, pod) for peer in peers)

    def _is(self, peer: Mapping[str, Any], namespace: str, pod: Pod) -> bool:
        if block := peer.get("ipBlock"):
            assert set(peer) == {"ipBlock"}
            assert set(block) == {"cidr"}
            address, net = ipaddress.ip_address(pod.ip), ipaddress.ip_network(block["cidr"])
            return address.version == net.version and address in net
        if not pod.namespace:
            return False
        if "namespaceSelector" in peer:
            labels = {"kubernetes.io/metadata.name": pod.namespace, **self.namespaces.get(pod.namespace, {})}
            if not selects(peer["namespaceSelector"], labels):
                return False
        elif pod.namespace != namespace:
            return False
        return selects(peer.get("podSelector", {}), pod.labels)


def key(policy: Policy) -> tuple[str, str]:
    return policy["metadata"]["namespace"], policy["metadata"]["name"]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    wanted = selector.get("matchLabels", {})
    return all(labels.get(name) == value for name, value in wanted.items()) and all(
        _holds(one, labels) for one in selector.get("matchExpressions", [])
    )


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    there, value = expression["key"] in labels, labels.get(expression["key"])
    match expression["operator"]:
        case "Exists":
            return there
        case "DoesNotExist":
            return not there
        case "In":
            return there and value in expression["values"]
        case "NotIn":  # holds for a label that is not there
            return not there or value not in expression["values"]
    raise AssertionError(expression)


def _port(rule: Mapping[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any(one["port"] == port and one["protocol"] == protocol for one in ports)
