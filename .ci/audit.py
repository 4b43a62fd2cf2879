"""Asks pip-audit for known vulnerabilities of the pinned packages, and says plainly when nobody answered.

Exit 1 if one is reported. pip-audit itself counts packages that its service does not know as passed.
"""

import json
import subprocess
import sys
from typing import Any

FILES = ("requirements-dev.txt", "requirements-node.txt")  # the first includes requirements.txt
SERVICES = ("pypi", "osv")
TIMEOUT_S = 300


def ask(service: str) -> tuple[list[dict[str, Any]], str]:
    """The packages as the service reports them (empty without an answer), and why there is no answer."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--format", "json"]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--cache-dir", ".cache/pip-audit"]
    for file in FILES:
        command += ["--requirement", file]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return [], f"no answer in {TIMEOUT_S} s"
    except ValueError:
        return [], (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return packages, ""


def main() -> int:
    """Ask one service after the other until one knows every package."""
    for service in SERVICES:
        packages, reason = ask(service)
        vulnerable = [package for package in packages if package.get("vulns")]
        unknown = [package["name"] for package in packages if "skip_reason" in package]
        for package in vulnerable:
            for vulnerability in package["vulns"]:
                fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
                print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
        if vulnerable:
            return 1
        if packages and not unknown:
            print(f"pip-audit: {len(packages)} packages, no known vulnerabilities ({service})")
            return 0
        if packages and len(unknown) < len(packages):
            reason = "unknown to it: " + ", ".join(unknown)
        print(f"pip-audit: {service}: {reason or 'it knows none of the packages'}")
    print("pip-audit: could not reach the service, NOT audited")
    return 0


if __name__ == "__main__":
    sys.exit(main())
