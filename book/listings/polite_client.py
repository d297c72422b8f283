"""A client that behaves: one deadline, few tries, spread in time, and paid for."""

import email.utils
import random
import threading
import time
import uuid

import requests

#: May go better the next time. Any other refusal is about the request itself.
PASSING = {429, 500, 502, 503, 504}


class Failed(RuntimeError):
    """No answer; `status` is the last one (0: none), `tries` how often we asked."""

    def __init__(self, status: int, tries: int, said: str):
        super().__init__(f"status {status} after {tries} tries: {said}")
        self.status, self.tries = status, tries


class Budget:
    """Retries are paid for: every new question earns `share` of one."""

    def __init__(self, share: float = 0.1, most: float = 10):
        self.share, self.most, self.left = share, most, most
        self.lock = threading.Lock()

    def earn(self) -> None:
        with self.lock:
            self.left = min(self.most, self.left + self.share)

    def spend(self) -> bool:
        with self.lock:
            if self.left < 1:
                return False
            self.left -= 1
            return True


def pause_s(failed: int, first_s: float = 0.05, most_s: float = 2.0) -> float:
    """Full jitter: from nothing to a bound that doubles with each failed try."""
    return random.uniform(0, min(most_s, first_s * 2 ** (failed - 1)))


def retry_after_s(value: str | None) -> float:
    """What a Retry-After header asks for: seconds, or a date; 0 without one."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(
            0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        )
    except ValueError:
        return 0.0


class PoliteClient:
    """Asks one service; one client a thread, one budget for all of a process."""

    def __init__(self, url: str, key: str, budget: Budget, tries: int = 3):
        self.url, self.budget, self.tries = url, budget, tries
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy between us and this machine
        self.session.headers["Authorization"] = f"Bearer {key}"

    def predict(self, row: dict, deadline_s: float = 1.0) -> dict:
        """The service's answer, within the deadline, or `Failed`."""
        end = time.monotonic() + deadline_s
        question = uuid.uuid4().hex  # the same for every try
        self.budget.earn()
        tries = 0
        while True:
            tries += 1
            status, said, asked_s = self.ask(row, question, end)
            if status == 200:
                return said
            wait_s = asked_s + pause_s(tries)  # never all at the same moment
            if (
                status not in PASSING | {0}
                or tries == self.tries
                or wait_s >= end - time.monotonic()
                or not self.budget.spend()
            ):
                raise Failed(status, tries, str(said))
            time.sleep(wait_s)

    def ask(self, row: dict, question: str, end: float) -> tuple[int, object, float]:
        """One try: status (0: none), what was said, and what Retry-After asks for.

        The limit of `requests` is for each wait on the network, not for all of them
        together: a server that trickles bytes can go beyond it.
        """
        left_s = max(0.001, end - time.monotonic())
        granted_ms = f"{900 * left_s:.0f}"  # a tenth is for the way there and back
        headers = {"Idempotency-Key": question, "X-Timeout-Ms": granted_ms}
        try:
            answer = self.session.post(
                self.url + "/predict", json=row, headers=headers, timeout=left_s
            )
        except requests.RequestException as error:
            return 0, type(error).__name__, 0.0
        status, said = answer.status_code, answer.text[:200]
        try:
            said = answer.json()
        except ValueError:  # a page of a proxy's
            status = 502 if status == 200 else status
        return status, said, retry_after_s(answer.headers.get("Retry-After"))
