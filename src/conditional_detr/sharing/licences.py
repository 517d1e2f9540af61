"""Licence ids of the Hugging Face Hub. Source: https://huggingface.co/docs/hub/repositories-licenses."""

import re

from conditional_detr.errors import ConfigError, did_you_mean

UNKNOWN, OTHER = "unknown", "other"
IDS = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0
    artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0
    cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0
    epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl
    mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    """.split()  # noqa: SIM905
) | {UNKNOWN, OTHER}


def licence_id(text: str, option: str) -> str:
    """Return the Hub's id of a licence that is given by this id or by its SPDX id.

    Parameters
    ----------
    text : the id, in any case
    option : where it comes from, for the message

    Raises
    ------
    ConfigError : the Hub has no such licence

    >>> licence_id("Apache-2.0", "--licence"), licence_id("GPL-3.0-or-later", "--licence")
    ('apache-2.0', 'gpl-3.0')
    """
    found = re.sub(r"-(only|or-later)$", "", text.strip().lower())
    if found not in IDS:
        raise ConfigError(
            f"{option} must be a licence id of the Hugging Face Hub, not {text[:60]!r}. {did_you_mean(found, IDS)} "
            f"For a licence that has no id, give {OTHER}"
        )
    return found
