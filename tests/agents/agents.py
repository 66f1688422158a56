"""How each agent program reaches the scripted model: its key, its address and its settings, in a home folder of its own."""

import json

MODELS = {
    "claude": "claude-sonnet-4-5",
    "codex": "gpt-5.5-codex",
    "opencode": "scripted/scripted-1",
    "gemini": "gemini-2.5-pro",
    "aider": "openai/gpt-4o",
}


def prepare(agent, home, url):
    """Writes the settings of `agent` below `home`, and returns the variables that it needs beside PATH and HOME."""
    return {"claude": _claude, "codex": _codex, "opencode": _opencode, "gemini": _gemini, "aider": _aider}[agent](home, url)


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _claude(_home, url):
    return {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "sk-ant-dummy",
        "ANTHROPIC_MODEL": MODELS["claude"],
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


def _codex(home, url):
    _write(
        home / "codex/config.toml",
        f"""model = "{MODELS["codex"]}"
model_provider = "scripted"
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.scripted]
name = "scripted"
base_url = "{url}/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
""",
    )
    return {"CODEX_HOME": str(home / "codex"), "OPENAI_API_KEY": "sk-dummy"}


def _opencode(home, url):
    model = {"name": "Scripted", "limit": {"context": 200000, "output": 8000}, "tool_call": True, "cost": {"input": 2, "output": 8, "cache_read": 0.5, "cache_write": 2.5}}
    provider = {"npm": "@ai-sdk/openai-compatible", "options": {"baseURL": f"{url}/v1", "apiKey": "{env:OPENAI_API_KEY}"}, "models": {"scripted-1": model}}
    _write(
        home / ".config/opencode/opencode.json",
        json.dumps({"model": MODELS["opencode"], "small_model": MODELS["opencode"], "autoupdate": False, "share": "disabled", "provider": {"scripted": provider}}, indent=1),
    )
    return {"OPENAI_API_KEY": "sk-dummy", "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1"}


def _gemini(home, url):
    settings = {
        "privacy": {"usageStatisticsEnabled": False},
        "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "model": {"name": MODELS["gemini"]},
    }
    _write(home / ".gemini/settings.json", json.dumps(settings, indent=1))
    return {"GEMINI_API_KEY": "dummy", "GOOGLE_GEMINI_BASE_URL": url}


def _aider(home, url):
    _write(home / ".aider.conf.yml", "analytics-disable: true\n")
    return {
        "OPENAI_API_KEY": "sk-dummy",
        "OPENAI_API_BASE": f"{url}/v1",
        "AIDER_MODEL": MODELS["aider"],
        "AIDER_EDIT_FORMAT": "diff",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
