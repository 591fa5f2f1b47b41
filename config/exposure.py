"""May the stack listen on BIND_ADDRESS? airflow-init asks before anything else, and does not go on if this fails.

Needs nothing but the environment: BIND_ADDRESS, AIRFLOW_PASSWORD and API_KEYS_FILE, as .env has them.
"""

import os
import sys
from ipaddress import ip_address

TUTORIAL = "airflow"  # the password that everybody knows


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches the address. A name, but localhost, may mean any."""
    try:
        return ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"


def shout(*lines: str) -> None:
    frame = "!" * max(map(len, lines))
    print(frame, *lines, frame, sep="\n", file=sys.stderr)


def main() -> int:
    address = os.environ.get("BIND_ADDRESS") or "127.0.0.1"
    if is_loopback(address):
        return 0
    if not os.environ.get("API_KEYS_FILE"):
        shout(
            f"BIND_ADDRESS is {address}: others reach the API there, and it asks nobody for a key.",
            "API_KEYS_FILE in .env changes that. See docs/access.md.",
        )
    if os.environ.get("AIRFLOW_PASSWORD", "") not in ("", TUTORIAL):
        return 0
    shout(
        f"BIND_ADDRESS is {address}: others reach Airflow there, and whoever logs in runs code in the stack.",
        f"Its user airflow must not have the tutorial's password, {TUTORIAL}. Set AIRFLOW_PASSWORD in .env to another",
        "one and start again, or set BIND_ADDRESS back to 127.0.0.1. See docs/access.md.",
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
