"""docs/playground.png: the playground with a real answer of the default model, in headless Chromium.

python -m benchmarks.playground_picture [--question TEXT] [--out docs/playground.png]
"""

import argparse
import tempfile
from pathlib import Path

from tests.e2e.browser import chromium, visit
from tests.running_service import running_service

QUESTION = "What is the capital of Japan?"
WIDTH = 1280


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--out", type=Path, default=Path("docs/playground.png"))
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(folder, engine="transformers", device="cpu", feedback_url="off") as service,
        chromium() as browser,
        visit(browser, service.address, viewport={"width": WIDTH, "height": 1000}) as here,
    ):
        here.ask(asked.question)
        here.answered()
        here.page.locator(".token.span").first.hover()
        here.page.evaluate("document.activeElement.blur()")
        here.page.wait_for_timeout(400)  # the dial and the colours come to rest
        bottom = here.page.evaluate("document.querySelector('.columns').getBoundingClientRect().bottom")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": bottom + 16}
        here.page.screenshot(path=asked.out, full_page=True, clip=clip)
    print(f"{asked.out}: {asked.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
