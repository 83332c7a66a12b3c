"""Debian's real services on systemd machines: the allowed path passes, the forbidden one is refused and told with the
unit and the process that it was."""

API1, DB1, WEB1, CLIENT1 = "10.77.2.11", "10.77.3.11", "10.77.1.11", "10.77.200.5"
PYTHON = "/usr/bin/python3 -I -S /opt/lab/programs.py"


def test_nginx_the_api_and_postgres_work_together(fleet):
    for family, url in (("4", "http://web1/api/"), ("6", "http://[fd77:0:1::11]/api/")):
        answer = fleet.fetch("client1", url)
        assert answer.open, (family, answer, fleet.logs())
        assert answer.text.startswith("shop api: 2 orders, postgres 15."), answer


def test_nginx_that_was_broken_into_reaches_no_database(fleet):
    assert not fleet.fetch("client1", f"http://web1/to/{DB1}:5432").open
    denial = fleet.denied("web1", direction="egress", peer_host="db1", process_unit="nginx.service")
    assert denial["service"] == "tcp/5432"
    assert denial["process"]["user"] == "www-data"
    assert denial["process"]["exe"] == "/usr/sbin/nginx"
    assert denial["process"]["command"].startswith("nginx: worker")


def test_the_python_api_that_was_broken_into_reaches_no_ssh(fleet):
    answer = fleet.fetch("client1", f"http://web1/api/to/{WEB1}:22")
    assert not answer.open, answer
    denial = fleet.denied("api1", direction="egress", peer_host="web1", process_unit="shop-api.service")
    assert denial["service"] == "tcp/22"
    assert denial["process"]["user"] == "shop"
    assert "http_api.py" in denial["process"]["command"]


def test_postgres_answers_its_api_and_nobody_else(fleet):
    assert not fleet.reach("client1", "db1", 5432).open
    denial = fleet.denied("db1", direction="ingress", peer_address=CLIENT1, process_unit="postgresql@15-main.service")
    assert denial["process"]["user"] == "postgres"


def test_a_program_that_postgres_was_made_to_run_reaches_nothing(fleet):
    """As with a superuser's password: COPY ... TO PROGRAM."""
    copy = f"copy (select 1) to program '{PYTHON} reach {API1} 22 --timeout 1'"
    done = fleet.machines["db1"].run(["runuser", "-u", "postgres", "--", "psql", "-qc", copy])
    assert done.returncode == 1
    assert "failed" in done.stderr
    denial = fleet.denied("db1", direction="egress", peer_host="api1", service="tcp/22")
    assert denial["process"]["unit"] == "postgresql@15-main.service"
    assert denial["process"]["user"] == "postgres"
    assert denial["process"]["exe"].startswith("/usr/bin/python3")


def test_ssh_is_for_administrators_and_a_login_is_not_its_daemon(fleet):
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
    assert fleet.control.run([*ssh, "alice@web1", "hostname"]).stdout == "web1\n"
    assert not fleet.reach("client1", "web1", 22).open
    denial = fleet.denied("web1", direction="ingress", peer_address=CLIENT1, process_unit="ssh.service")
    assert denial["service"] == "tcp/22"
    assert denial["process"]["exe"] == "/usr/sbin/sshd"

    done = fleet.control.run([*ssh, "alice@web1", f"{PYTHON} reach {DB1} 5432 --timeout 1"])
    assert done.returncode == 1, done
    denial = fleet.denied("web1", direction="egress", peer_host="db1", process_user="alice")
    assert denial["workload"] == "host"
    assert denial["process"]["unit"].startswith("session-")


def test_a_cron_job_fetches_what_it_may_and_nothing_else(fleet):
    """@reboot jobs run as soon as cron starts, so that nobody waits for a full minute."""
    web1 = fleet.machines["web1"]
    jobs = (
        f"@reboot root curl -sS --max-time 8 --retry 5 --retry-all-errors http://{API1}:8090/ >/run/stock.txt\n"
        f"@reboot root {PYTHON} reach {DB1} 5432 --timeout 1\n"
    )
    web1.write("/etc/cron.d/shop", jobs)
    web1.check(["rm", "-f", "/run/crond.reboot"])
    web1.restart_unit("cron.service")
    denial = fleet.denied("web1", direction="egress", peer_host="db1", process_unit="cron.service")
    assert denial["workload"] == "nightly"
    assert "reach" in denial["process"]["command"]
    web1.check(["sh", "-c", "for i in $(seq 100); do test -s /run/stock.txt && exit; sleep 0.1; done; exit 1"])
    assert web1.read("/run/stock.txt").startswith("stock: 2 orders"), web1.read("/run/stock.txt")
    web1.check(["rm", "/etc/cron.d/shop", "/run/stock.txt"])


def test_a_socket_activated_service_is_known_before_it_starts(fleet):
    api1 = fleet.machines["api1"]
    api1.systemctl("stop", "stock.service")
    assert not fleet.fetch("client1", f"http://web1/to/{API1}:8090").open
    fleet.denied("web1", direction="egress", peer_host="api1", service="tcp/8090")
    assert not fleet.reach("client1", "api1", 8090).open
    denial = fleet.denied("api1", direction="ingress", peer_address=CLIENT1, service="tcp/8090")
    assert denial["workload"] == "shop-stock"
    assert api1.show("stock.service", "ActiveState") == "inactive", "what is refused does not start it"
    assert fleet.reach("web1", "api1", 8090, unit="cron.service").open
    assert api1.show("stock.service", "ActiveState") in ("active", "activating")


def test_a_restarted_unit_keeps_its_permissions(fleet):
    for host, unit in (("web1", "nginx.service"), ("api1", "shop-api.service"), ("db1", "postgresql@15-main.service")):
        before, after = fleet.machines[host].restart_unit(unit)
        assert before != after, "systemd gives a unit that starts a cgroup of its own"
    answer = fleet.fetch("client1", "http://web1/api/", seconds=15)
    assert answer.open, answer
