"""docs/playground.png: the playground with a real answer of the default model, in headless Chromium.

python -m benchmarks.playground_picture [--question TEXT] [--out docs/playground.png]
"""

import argparse
import tempfile
from pathlib import Path

from tests.e2e.browser import chromium, visit
from tests.running_service import running_service

QUESTION = "What is the capital of Japan?"
SIZE = {"width": 1180, "height": 1040}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--out", type=Path, default=Path("docs/playground.png"))
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(folder, engine="transformers", device="cpu", feedback_url="off") as service,
        chromium() as browser,
        visit(browser, service.address, viewport=SIZE) as here,
    ):
        here.ask(asked.question)
        here.answered()
        here.page.locator(".token.span").first.hover()
        here.page.evaluate("document.activeElement.blur()")
        here.page.wait_for_timeout(400)  # the dial and the colours come to rest
        height = here.page.evaluate("Math.ceil(document.querySelector('.columns').getBoundingClientRect().bottom) + 16")
        here.page.screenshot(
            path=asked.out, full_page=True, clip={"x": 0, "y": 0, "width": SIZE["width"], "height": height}
        )
    print(f"{asked.out}: {asked.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
