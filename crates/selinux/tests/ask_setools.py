"""Answers questions with setools: one JSON question a line in, one JSON answer a line out.

The policies are the arguments: one for questions about rules and names, two for their difference. So that hundreds of
questions take seconds, the rules are made once, what their sources and targets match is remembered within a question,
and rules whose source or target does not match, by setools' own function, are not looked at one by one.
"""

import json
import re
import sys

import setools
from setools import terulequery

known = {}
match = terulequery.match_indirect_regex


def remembering(one, criterion, indirect, regex):
    # The rules live as long as this process, and keep their sources and targets.
    key = (id(one), id(criterion), indirect)
    if key not in known:
        known[key] = match(one, criterion, indirect, regex)
    return known[key]


terulequery.match_indirect_regex = remembering


class Policy:
    """A policy whose rules are made once."""

    def __init__(self, policy):
        self.policy = policy
        self.by_source = {}
        self.by_target = {}
        for rule in policy.terules():
            for index, one in ((self.by_source, rule.source), (self.by_target, rule.target)):
                groups = index.setdefault(rule.ruletype, {})
                groups.setdefault(one, (one, []))[1].append(rule)
        self.query = None

    def __getattr__(self, name):
        return getattr(self.policy, name)

    def terules(self):
        query = self.query
        index, criterion, indirect = self.by_source, query.source, query.source_indirect
        if not criterion:
            index, criterion, indirect = self.by_target, query.target, query.target_indirect
        for kind in query.ruletype:
            for one, rules in index.get(kind, {}).values():
                if not criterion or remembering(one, criterion, indirect, False):
                    yield from rules


def criteria(question, names):
    return {name: question[name] for name in names if question.get(name)}


def rules(policy, question):
    kinds = [setools.TERuletype.lookup(kind) for kind in question["kinds"]]
    wanted = criteria(question, ["source", "target", "tclass", "perms", "boolean", "default"])
    query = setools.TERuleQuery(
        policy.policy,
        ruletype=kinds,
        source_indirect=not question["direct"],
        target_indirect=not question["direct"],
        **wanted,
    )
    policy.query = query
    query.policy = policy
    return [str(rule) for rule in query.results()]


def ranges(policy, question):
    wanted = criteria(question, ["source", "target", "tclass", "default"])
    query = setools.MLSRuleQuery(
        policy.policy,
        ruletype=["range_transition"],
        source_indirect=not question["direct"],
        target_indirect=not question["direct"],
        **wanted,
    )
    return [str(rule) for rule in query.results()]


def roles(policy, question):
    wanted = criteria(question, ["source", "target", "tclass", "default"])
    query = setools.RBACRuleQuery(policy.policy, ruletype=question["kinds"], **wanted)
    return [str(rule) for rule in query.results()]


def constraint(one):
    """A constraint with all parentheses: setools' own text leaves out some that change the meaning."""
    stack = []
    for step in one.expression:
        if step == "not":
            stack.append(f"not ({stack.pop()})")
        elif step in ("and", "or"):
            right, left = stack.pop(), stack.pop()
            stack.append(f"({left} {step} {right})")
        elif step in ("==", "!=", "dom", "domby", "incomp"):
            right, left = stack.pop(), stack.pop()
            stack.append(f"{left} {step} {right}")
        elif isinstance(step, frozenset):
            stack.append("{ " + " ".join(sorted(map(str, step))) + " }")
        else:
            stack.append(step)
    (text,) = stack
    return f"{str(one).split('(')[0]}({text});"


def names(policy, question):
    """All that the listings say."""
    inner = policy.policy

    def text(items):
        return sorted(str(item) for item in items)

    def common(kind):
        try:
            return str(kind.common)
        except setools.exception.NoCommon:
            return None

    def permissions(kind):
        try:
            return text(set(kind.perms) | set(kind.common.perms))
        except setools.exception.NoCommon:
            return text(kind.perms)

    constraints = {}
    for one in inner.constraints():
        constraints.setdefault(str(one.tclass), []).append(constraint(one))
    return {
        "types": {
            str(kind): {
                "aliases": text(kind.aliases()),
                "attributes": text(kind.attributes()),
                "permissive": bool(kind.ispermissive),
            }
            for kind in inner.types()
        },
        "attributes": {str(one): text(one.expand()) for one in inner.typeattributes()},
        "bounds": {str(one.child): str(one.parent) for one in inner.bounds()},
        "classes": {str(one): [common(one), permissions(one)] for one in inner.classes()},
        "constraints": constraints,
        "booleans": {str(one): bool(one.state) for one in inner.bools()},
        "roles": {str(one): text(one.types()) for one in inner.roles()},
    }


def difference(first, second, names):
    """Both sides of parts of the difference, as texts."""
    diff = setools.PolicyDifference(first, second)
    answer = {}
    for name in names:
        sides = []
        for side in ("removed", "added"):
            sides.append(sorted(str(one) for one in getattr(diff, f"{side}_{name}")))
        modified = getattr(diff, f"modified_{name}", [])
        modified = modified.items() if isinstance(modified, dict) else modified
        answer[name] = sides + [sorted(map(changed, modified))]
    return answer


def changed(one):
    """The name of something that is on both sides, and what it lost and gained."""
    if isinstance(one, tuple) and len(one) == 2 and not hasattr(one, "_fields"):
        name, one = one
    else:
        name = getattr(one, "rule", None) or one[0]

    def parts(prefix):
        found = []
        for field in getattr(one, "_fields", []):
            value = getattr(one, field)
            if field.startswith(prefix) and isinstance(value, (set, frozenset, list)):
                found.extend(str(item) for item in value)
        return sorted(found)

    return [re.sub(r";$", "", str(name)), parts("removed"), parts("added")]


def main():
    try:
        policies = [setools.SELinuxPolicy(name) for name in sys.argv[1:]]
    except Exception as problem:
        print(json.dumps({"unreadable": str(problem)}), flush=True)
        return
    print(json.dumps({"version": setools.__version__}), flush=True)
    cached = Policy(policies[0]) if len(policies) == 1 else None
    for line in sys.stdin:
        question = json.loads(line)
        known.clear()
        try:
            if question["ask"] == "difference":
                answer = difference(*policies, question["names"])
            else:
                answer = globals()[question["ask"]](cached, question)
        except Exception as problem:
            answer = {"problem": f"{type(problem).__name__}: {problem}"}
        print(json.dumps(answer), flush=True)


main()
