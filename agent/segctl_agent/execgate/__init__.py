"""Workloads by executable: a small process beside the agent that moves a program into a cgroup of its own as it starts.

    exec of a marked file ──▶ fanotify ──▶ Gate: <cgroup>/segctl-exe-WORKLOAD, move, allow ──▶ the agent maps it

It knows nothing of the policy but the list of files that the agent leaves in its state folder (`targets`), and it
always allows: what it cannot place belongs to its unit's workload and has that one's permissions (ADR 14).
"""
