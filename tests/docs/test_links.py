"""A link between pages leads somewhere."""

import re

from tests.docs.blocks import ROOT, pages


def test_links_lead_somewhere():
    links = [
        (page, link)
        for page in pages()
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert len(links) > 20
    places = {(ROOT / page).parent.joinpath(link).resolve(): page for page, link in links}
    wrong = {str(place.relative_to(ROOT)): page for place, page in places.items() if not place.exists()}
    assert not wrong, wrong
