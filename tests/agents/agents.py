"""How each agent program reaches the scripted model: its key, its address and its settings, in a home folder of its own."""

import json

MODELS = {
    "claude": "claude-sonnet-4-5",
    "codex": "gpt-5.5-codex",
    "opencode": "scripted/scripted-1",
    "gemini": "gemini-2.5-pro",
    "aider": "openai/gpt-4o",
}

# US dollars for a million tokens, as the settings have it for agents that do not report what they cost.
PRICES = {
    "codex": {"input": 1.25, "output": 10.0, "cache_read": 0.125, "cache_write": 1.25},
    "gemini": {"input": 2.0, "output": 12.0, "cache_read": 0.5, "cache_write": 2.0},
}
# The same for the others: what they know of their model, or read from the settings below.
_OWN_PRICES = {
    "claude": {"input": 3.0, "output": 15.0, "cache_read": 0.3, "cache_write": 3.75},
    "opencode": {"input": 2.0, "output": 8.0, "cache_read": 0.5, "cache_write": 2.5},
    "aider": {"input": 2.5, "output": 10.0, "cache_read": 1.25, "cache_write": 0.0},
}


def price_of(agent):
    """Prices of input, cache reads, cache writes and output."""
    price = (PRICES | _OWN_PRICES)[agent]
    return price["input"], price["cache_read"], price["cache_write"], price["output"]


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
        "CLAUDE_CODE_MAX_RETRIES": "1",
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
request_max_retries = 1
stream_max_retries = 1
""",
    )
    return {"CODEX_HOME": str(home / "codex"), "OPENAI_API_KEY": "sk-dummy"}


def _opencode(home, url):
    model = {"name": "Scripted", "limit": {"context": 200000, "output": 8000}, "tool_call": True, "cost": _OWN_PRICES["opencode"]}
    provider = {"npm": "@ai-sdk/openai-compatible", "options": {"baseURL": f"{url}/v1", "apiKey": "{env:OPENAI_API_KEY}"}, "models": {"scripted-1": model}}
    _write(
        home / ".config/opencode/opencode.json",
        json.dumps({"model": MODELS["opencode"], "small_model": MODELS["opencode"], "autoupdate": False, "share": "disabled", "provider": {"scripted": provider}}, indent=1),
    )
    # Otherwise it installs this package of its own at each start, which takes as long as its work here.
    (home / ".config/opencode/node_modules").mkdir()
    _write(home / ".config/opencode/package-lock.json", json.dumps({"packages": {"": {"dependencies": {"@opencode-ai/plugin": "*"}}}}))
    # That compiler takes longer here than it saves.
    return {"OPENAI_API_KEY": "sk-dummy", "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1", "BUN_JSC_useFTLJIT": "0"}


def _gemini(home, url):
    settings = {
        "privacy": {"usageStatisticsEnabled": False},
        "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False, "maxAttempts": 2},
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "model": {"name": MODELS["gemini"]},
    }
    _write(home / ".gemini/settings.json", json.dumps(settings, indent=1))
    return {"GEMINI_API_KEY": "dummy", "GOOGLE_GEMINI_BASE_URL": url}


def _aider(home, url):
    # Without this file it fetches a list of prices.
    prices = {"gpt-4o": {"litellm_provider": "openai", "mode": "chat", "max_input_tokens": 128000, "max_output_tokens": 16384,
                         "input_cost_per_token": 2.5e-6, "cache_read_input_token_cost": 1.25e-6, "output_cost_per_token": 1e-5}}
    _write(home / ".aider/caches/model_prices_and_context_window.json", json.dumps(prices))
    _write(home / ".aider.conf.yml", "analytics: false\n")
    return {
        "OPENAI_API_KEY": "sk-dummy",
        "OPENAI_API_BASE": f"{url}/v1",
        "AIDER_MODEL": MODELS["aider"],
        "AIDER_EDIT_FORMAT": "diff",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
