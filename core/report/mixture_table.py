"""The languages of a mixture as plain text."""

from diptych.core.data.sources.mixture import LanguageMixture
from diptych.core.report.language_names import language_name
from diptych.core.report.tables import text_table


def mixture_table(mixture: LanguageMixture) -> str:
    """For people: records, share before and after, and how often each record comes, by language, the most frequent
    first.
    """
    rows = [
        [
            f"{language_name(share.language)} ({share.language})",
            f"{share.records:,}",
            f"{share.share_before:.2%}",
            f"{share.share_after:.2%}",
            f"{share.places / share.records:.2f}",
        ]
        for share in mixture.shares()
    ]
    return text_table(["language", "records", "before", "after", "times each"], rows)
