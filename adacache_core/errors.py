"""The one exception of this package: something the user can understand and mend."""


class AdaCacheError(ValueError):
    """Settings, files or models that AdaCache cannot work with; the message says what to do."""
