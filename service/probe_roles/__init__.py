"""Which probes serve, and as what: found in the folders, proved in the engine, put in their places, found again later.

`entry`, `listing` and `shelf` say what there is; `golden` and `slot` prove it; `places`, `switch` and `memory` hold,
change and remember what serves; `served` is what a request gets of it.
"""
