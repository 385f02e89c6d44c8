"""Write a file as the comment of a pull request, in place of an earlier one that begins with the same line.

GITHUB_TOKEN=... GITHUB_REPOSITORY=owner/name PULL_REQUEST=7 python .github/comment.py plan.md
"""

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

API = os.environ.get("GITHUB_API_URL", "https://api.github.com")
ISSUES = f"{API}/repos/{os.environ['GITHUB_REPOSITORY']}/issues"
PER_PAGE = 100


def ask(method: str, url: str, body: dict | None = None) -> object:
    headers = {
        "Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}",
        "Accept": "application/vnd.github+json",
        "Content-Type": "application/json",
    }
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=60) as answer:
        return json.load(answer)


def comments(of: str) -> Iterator[dict]:
    page = 1
    while found := ask("GET", f"{of}?per_page={PER_PAGE}&page={page}"):
        yield from found
        page += 1


def main() -> None:
    text = Path(sys.argv[1]).read_text()
    mark, of = text.splitlines()[0], f"{ISSUES}/{os.environ['PULL_REQUEST']}/comments"
    # What begins with the mark and is by a person stays: the token may edit it too.
    own = [one for one in comments(of) if one["body"].startswith(mark) and one["user"]["type"] == "Bot"]
    method, url = ("PATCH", f"{ISSUES}/comments/{own[0]['id']}") if own else ("POST", of)
    print(ask(method, url, {"body": text})["html_url"])


if __name__ == "__main__":
    main()
