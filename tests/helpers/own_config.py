"""Write configs of a user's own."""


def write(path, text):
    path.write_text(text)
    return str(path)


def small(tmp_path, text=""):
    base = "data: {name: digits}\nmodel: {network: {channel_multipliers: [1, 2], attention_resolutions: [4]}}\n"
    write(tmp_path / "base.yaml", base)
    return write(tmp_path / "own.yaml", f"base: [base.yaml]\n{text}")
