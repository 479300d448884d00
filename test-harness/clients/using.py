"""Many clients at once: the arguments are how many, the mode, and the URLs that they use in turn."""

import asyncio
import json
import os
import sys


async def use_all(use):
    """Has each client run `use(url, mode)`, and prints a list of what they saw."""
    clients, mode, urls = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    uses = [use(urls[place % len(urls)], mode) for place in range(clients)]
    seen = await asyncio.gather(*uses, return_exceptions=True)
    print(json.dumps([{"failure": repr(each)} if isinstance(each, BaseException) else each for each in seen]))


def run(use):
    """As `use_all`, as a program."""
    asyncio.run(asyncio.wait_for(use_all(use), float(os.environ.get("BERTH_CLIENT_LIMIT", "60"))))
