"""A model on 127.0.0.1 whose answers are written in the prompt: lines `SCRIPT: {"do": …}`.

It speaks the protocols that coding agents use: Anthropic Messages, OpenAI Responses, OpenAI chat completions, and Gemini.
Steps, in order; each of the first six is one answer of the model, the others act before the answer that follows them:

    {"do": "read", "file": F}               {"do": "write", "file": F, "text": T}
    {"do": "edit", "file": F, "old": A, "new": B}
    {"do": "bash", "command": C}            {"do": "mcp", "tool": N, "args": {…}}   of the MCP server coding-loops
    {"do": "say", "text": T}                ends the turn
    {"do": "hold", "name": N}               waits until the test calls `release(N)`; `wait_reached(N)` waits for this point
    {"do": "http", "status": S, "times": N, "kind": K, "reset": SECONDS}    answers N requests with an error

`"attempt": N` limits a step to one attempt. What was served is counted by kind of token: `served()`.
"""

import gzip
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWERS = {"read", "write", "edit", "bash", "mcp", "say"}
SERVER = "coding-loops"
HOLD_SECONDS = 120


@dataclass
class Tokens:
    """Tokens of one answer or of several: `input` excludes what was read from or written to the cache; `output` includes reasoning."""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    def __add__(self, other):
        return Tokens(*(mine + theirs for mine, theirs in zip(asdict(self).values(), asdict(other).values())))

    @property
    def prompt(self):
        return self.input + self.cache_read


@dataclass
class Conversation:
    """What a request says, whatever its protocol."""

    protocol: str
    model: str
    system: str = ""
    user: str = ""
    # The first message with a script: agents may repeat it when they go on with a session.
    prompt: str = ""
    tools: dict = field(default_factory=dict)
    answers: int = 0

    def add_user(self, text):
        self.user += text + "\n"
        if "SCRIPT: " in text and not self.prompt:
            # Agents put examples of a conversation before the real one.
            self.prompt, self.answers = text, 0

    def attempt(self):
        found = re.search(r"\(attempt (\d+) of", self.prompt)
        return int(found.group(1)) if found else 1

    def test(self):
        found = re.search(r"[Yy]our task is test (\S+)", self.prompt)
        return found.group(1) if found else ""

    def steps(self):
        lines = (line.strip() for line in self.prompt.splitlines())
        steps = [json.loads(line.removeprefix("SCRIPT: ")) for line in lines if line.startswith("SCRIPT: ")]
        steps = [step for step in steps if step.get("attempt", self.attempt()) == self.attempt()]
        return steps if self.tools else _without_tools(steps)

    def path(self, file):
        """`file` as an absolute path, where the agent says in which folder it works."""
        found = re.search(r"(?:working directory|<cwd>|cwd|Workspace Directories)[:>]?[\s`*-]*(/[^\s<`\"]+)", self.system + self.user, re.I)
        return os.path.join(found.group(1).rstrip("."), file) if found else file


class ScriptedModel:
    """The server; a context manager. `url` is its address. It listens on a free port unless one is given."""

    def __init__(self, port=0, requests_folder=None):
        self.requests_folder = requests_folder
        self._lock = threading.Lock()
        self._served = []
        self._faults = {}
        self._reached, self._released, self._abandoned = {}, {}, set()
        self._heard = []
        self._numbers = itertools.count(1)
        self.log = []
        handler = type("Handler", (_Handler,), {"model": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        for event in list(self._released.values()):
            event.set()
        self._server.shutdown()
        self._server.server_close()

    def served(self, helper=False):
        """The sum of what was served; with `helper`, of requests beside the work, such as for a title."""
        with self._lock:
            return sum((tokens for tokens, is_helper in self._served if is_helper == helper), Tokens())

    def heard(self, words):
        """Whether a request contained these words: in a prompt, or in the result of a tool."""
        with self._lock:
            return any(words in body for body in self._heard)

    def wait_reached(self, name, seconds=240):
        """Waits until an agent's request has reached the `hold` step of this name."""
        if not self._event(self._reached, name).wait(seconds):
            raise TimeoutError(f"no agent has reached the step `hold` {name!r} within {seconds} s")

    def release(self, name):
        """Lets requests at the `hold` step of this name go on, now and later."""
        self._event(self._released, name).set()

    def abandon(self, name):
        """As `release`, but requests that wait there now are never answered: their agent has ended."""
        self._abandoned.add(name)
        self.release(name)

    def _event(self, events, name):
        with self._lock:
            return events.setdefault(name, threading.Event())

    def tokens_of_next_answer(self, protocol, is_helper):
        """Counts one more answer. The numbers differ from answer to answer, so that no wrong sum is right by chance."""
        with self._lock:
            n = len(self._served)
            tokens = Tokens(1200 + 7 * n, 9000 + 11 * n, 0, 150 + n, 40)
            if protocol == "anthropic":
                tokens.cache_write, tokens.reasoning = 3000 + 13 * n, 0
            self._served.append((tokens, is_helper))
            return tokens

    def next_answer(self, talk):
        """("fault", step), ("say", text) or ("call", name, arguments), by the script and by how much of it was answered."""
        at = 0
        for number, step in enumerate(talk.steps()):
            if step["do"] not in ANSWERS:
                if at == talk.answers and self._acts(talk, number, step):
                    return ("fault", step)
                continue
            answer = ("say", step["text"]) if step["do"] == "say" else _tool_call(step, talk)
            if answer and at == talk.answers:
                return answer
            at += bool(answer)
        return ("say", "There is nothing more to do.")

    def _acts(self, talk, number, step):
        """Carries out a step that is no answer; true if the request has to fail."""
        if step["do"] == "hold":
            released = self._event(self._released, step["name"])
            waits = not released.is_set()
            self._event(self._reached, step["name"]).set()
            released.wait(HOLD_SECONDS)
            if waits and step["name"] in self._abandoned:
                raise BrokenPipeError
            return False
        key = (talk.test(), talk.attempt(), number, step.get("name"))
        with self._lock:
            self._faults[key] = self._faults.get(key, 0) + 1
            return self._faults[key] <= step.get("times", 1)


def _without_tools(steps):
    """The same script for an agent that reads edits out of the answer's text, as Aider does: one answer for each turn."""
    turns, edits = [], []
    for step in steps:
        if step["do"] in ("write", "edit"):
            old, new = (step["old"] + "\n", step["new"] + "\n") if step["do"] == "edit" else ("", step["text"])
            edits.append(f"{step['file']}\n```\n<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE\n```")
        elif step["do"] == "say":
            turns.append({"do": "say", "text": "\n\n".join([*edits, step["text"]])})
            edits = []
        elif step["do"] not in ANSWERS:
            turns.append(step)
    return turns


def _tool_call(step, talk):
    """The call that does this step with the tools that the agent offers; None if it has none for it."""
    do, has = step["do"], talk.tools
    if do == "mcp":
        # Agents may offer these tools only after a search. They take a call without one.
        tool = step["tool"]
        name = {"anthropic": f"mcp__{SERVER}__{tool}", "chat": f"{SERVER}_{tool}", "gemini": f"mcp_{SERVER}_{tool}"}.get(talk.protocol, tool)
        return ("call", name, step["args"], "mcp__" + SERVER.replace("-", "_"))
    file = step.get("file", "")
    path = talk.path(file)
    if do == "read":
        choices = {"Read": {"file_path": path}, "read": {"filePath": path}, "read_file": {"file_path": path}}
        shell = f"cat {file}"
    elif do == "write":
        text = step["text"]
        added = "".join(f"+{line}\n" for line in text.splitlines())
        choices = {
            "Write": {"file_path": path, "content": text},
            "write": {"filePath": path, "content": text},
            "write_file": {"file_path": path, "content": text},
            "apply_patch": f"*** Begin Patch\n*** Add File: {file}\n{added}*** End Patch\n",
        }
        shell = f"mkdir -p $(dirname {file}) && cat >{file} <<'END'\n{text}END\n"
    elif do == "edit":
        old, new = step["old"], step["new"]
        lines = "".join(f"-{line}\n" for line in old.splitlines()) + "".join(f"+{line}\n" for line in new.splitlines())
        choices = {
            "Edit": {"file_path": path, "old_string": old, "new_string": new},
            "edit": {"filePath": path, "oldString": old, "newString": new},
            "replace": {"file_path": path, "old_string": old, "new_string": new, "instruction": "change it"},
            "apply_patch": f"*** Begin Patch\n*** Update File: {file}\n@@\n{lines}*** End Patch\n",
        }
        script = f"p = {file!r}; s = open(p).read(); assert {old!r} in s; open(p, 'w').write(s.replace({old!r}, {new!r}, 1))"
        shell = f"python3 - <<'END'\n{script}\nEND\n"
    else:
        choices, shell = {}, step["command"]
    choices |= {
        "Bash": {"command": shell, "description": "run it"},
        "bash": {"command": shell, "description": "run it"},
        "run_shell_command": {"command": shell, "description": "run it"},
        "exec_command": {"cmd": shell},
        "shell_command": {"command": shell},
        "shell": {"command": ["bash", "-lc", shell]},
        "exec": f"const r = await tools.exec_command({{cmd: {json.dumps(shell)}}}); text(JSON.stringify(r));",
    }
    for name, arguments in choices.items():
        if name in has:
            return ("call", name, arguments)
    return None


def _fault(protocol, step, model):
    """Status, headers and body of an error, as the real services write them."""
    status, kind, reset = step["status"], step.get("kind", ""), step.get("reset")
    headers = {}
    if reset is not None:
        headers["retry-after"] = str(reset)
    at = int(time.time()) + (reset or 0)
    if protocol == "anthropic":
        name, text = {
            400: ("invalid_request_error", "prompt is too long: 212345 tokens > 200000 maximum"),
            401: ("authentication_error", "invalid x-api-key"),
            429: ("rate_limit_error", "This request would exceed your account's rate limit. Please try again later."),
            529: ("overloaded_error", "Overloaded"),
        }.get(status, ("api_error", "Internal server error"))
        if status == 429 and reset is not None:
            headers |= {
                "anthropic-ratelimit-unified-status": "rejected",
                "anthropic-ratelimit-unified-reset": str(at),
                "anthropic-ratelimit-unified-representative-claim": "five_hour",
            }
        return status, headers, {"type": "error", "error": {"type": name, "message": text}, "request_id": "req_scripted"}
    if protocol == "gemini":
        status = {529: 503, 401: 400}.get(status, status)
        name, text = {
            429: ("RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan and billing details."),
            503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
        }.get(status, ("INVALID_ARGUMENT", "The input token count (1212345) exceeds the maximum number of tokens allowed (1048576)."))
        details = []
        if status == 429:
            details = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{
                "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                "quotaId": f"GenerateRequestsPer{kind or 'Minute'}PerProjectPerModel-FreeTier", "quotaValue": "10"}]}]
            if reset is not None:
                details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{reset}s"})
        if step["status"] == 401:
            text = "API key not valid. Please pass a valid API key."
            details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}]
        return status, headers, {"error": {"code": status, "message": text, "status": name, "details": details}}
    status = {529: 503}.get(status, status)
    if status == 429 and kind == "plan":
        error = {"type": "usage_limit_reached", "message": "The usage limit has been reached", "plan_type": "plus", "resets_at": at, "resets_in_seconds": reset}
    elif status == 429 and kind == "quota":
        error = {"message": "You exceeded your current quota, please check your plan and billing details.", "type": "insufficient_quota", "param": None, "code": "insufficient_quota"}
    elif status == 429:
        error = {"message": f"Rate limit reached for {model} on tokens per min (TPM): Limit 30000, Used 29000, Requested 5000. Please try again in {reset or 11}s.",
                 "type": "tokens", "param": None, "code": "rate_limit_exceeded"}
    elif status == 401:
        error = {"message": "Incorrect API key provided: sk-dummy. You can find your API key at https://platform.openai.com/account/api-keys.",
                 "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    elif status == 400:
        error = {"message": "This model's maximum context length is 128000 tokens. However, your messages resulted in 212345 tokens. Please reduce the length of the messages.",
                 "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}
    else:
        error = {"message": "The server is currently overloaded with other requests. Sorry about that! Please try again later.", "type": "server_error", "param": None, "code": "server_is_overloaded" if status == 503 else None}
    return status, headers, {"error": error}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        # An agent that is ended resets its connections.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model = None

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._reply(200, {})

    def do_GET(self):
        self._note(f"GET {self.path}")
        if self.path.split("?")[0].endswith("/models"):
            known = {"id": "scripted-1", "object": "model", "type": "model", "display_name": "Scripted", "created_at": "2025-01-01T00:00:00Z"}
            return self._reply(200, {"object": "list", "data": [known], "has_more": False})
        return self._reply(404, {"error": {"type": "not_found", "message": "not found"}})

    def do_POST(self):
        body = self._body()
        with self.model._lock:
            self.model._heard.append(json.dumps(body, ensure_ascii=False))
        path = self.path.split("?")[0]
        if self.model.requests_folder:
            number = next(self.model._numbers)
            with open(os.path.join(self.model.requests_folder, f"{number:05}.json"), "w") as file:
                json.dump({"path": self.path, "headers": dict(self.headers), "body": body}, file, indent=1)
        try:
            if path.endswith("count_tokens") or path.endswith(":countTokens"):
                return self._reply(200, {"input_tokens": 1234, "totalTokens": 1234})
            if path.endswith("/messages"):
                return self._anthropic(body)
            if path.endswith("/responses"):
                return self._responses(body)
            if path.endswith("/chat/completions"):
                return self._chat(body)
            if "enerateContent" in path:
                return self._gemini(body, path)
            self._note(f"POST {self.path}: not found")
            return self._reply(404, {"error": {"type": "not_found", "message": "not found"}})
        except ConnectionError:
            self._note("the agent has closed the connection")

    def _note(self, text):
        self.model.log.append(f"{time.strftime('%H:%M:%S')} {text}")

    def _body(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            raw = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                raw += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            raw = gzip.decompress(raw)
        return json.loads(raw or b"{}")

    def _reply(self, status, value, headers=None):
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _start_stream(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def _event(self, value, is_named=True):
        name = f"event: {value['type']}\n" if is_named else ""
        text = value if isinstance(value, str) else json.dumps(value)
        self.wfile.write(f"{name}data: {text}\n\n".encode())
        self.wfile.flush()

    def _answer(self, talk, is_helper, helper_text="scripted"):
        """The answer and its tokens; None after it has replied with an error."""
        answer = ("say", helper_text) if is_helper else self.model.next_answer(talk)
        self._note(f"{talk.protocol} {talk.model}: {len(talk.tools)} tools, {talk.answers} answered: {str(answer)[:200]}")
        if answer[0] == "fault":
            status, headers, value = _fault(talk.protocol, answer[1], talk.model)
            self._reply(status, value, headers)
            return None
        if self._has_left():
            raise ConnectionResetError
        return answer, self.model.tokens_of_next_answer(talk.protocol, is_helper)

    def _has_left(self):
        """Whether the agent has closed the connection, as it does when it is ended while it waits."""
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    def _anthropic(self, body):
        talk = Conversation("anthropic", body.get("model"))
        talk.system = _text_of(body.get("system"))
        talk.tools = {tool["name"]: "function" for tool in body.get("tools") or []}
        for message in body.get("messages", []):
            if message["role"] == "user":
                if text := _text_of(message["content"]):
                    talk.add_user(text)
            else:
                talk.answers += 1
        if not (found := self._answer(talk, not talk.tools, '{"title": "scripted"}')):
            return
        answer, tokens = found
        usage = {"input_tokens": tokens.input, "cache_creation_input_tokens": tokens.cache_write, "cache_read_input_tokens": tokens.cache_read}
        if answer[0] == "say":
            blocks, stop = [{"type": "text", "text": answer[1]}], "end_turn"
        else:
            blocks, stop = [{"type": "tool_use", "id": f"toolu_{time.time_ns()}", "name": answer[1], "input": answer[2]}], "tool_use"
        message = {"id": f"msg_{time.time_ns()}", "type": "message", "role": "assistant", "model": talk.model, "content": [],
                   "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1}}
        usage["output_tokens"] = tokens.output
        if not body.get("stream"):
            return self._reply(200, {**message, "content": blocks, "stop_reason": stop, "usage": usage})
        self._start_stream()
        self._event({"type": "message_start", "message": message})
        for index, block in enumerate(blocks):
            if block["type"] == "text":
                empty, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": block["text"]}
            else:
                empty, delta = {**block, "input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            self._event({"type": "content_block_start", "index": index, "content_block": empty})
            self._event({"type": "content_block_delta", "index": index, "delta": delta})
            self._event({"type": "content_block_stop", "index": index})
        self._event({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": usage})
        self._event({"type": "message_stop"})

    def _responses(self, body):
        talk = Conversation("responses", body.get("model"), system=body.get("instructions") or "")
        talk.tools = {tool.get("name", tool["type"]): tool["type"] for tool in body.get("tools") or []}
        items = body.get("input") or []
        for item in [{"role": "user", "content": items}] if isinstance(items, str) else items:
            kind = item.get("type", "message")
            if kind == "message" and item["role"] == "user":
                talk.add_user(_text_of(item["content"]))
            elif kind == "message" and item["role"] != "assistant":
                talk.system += _text_of(item["content"]) + "\n"
            elif kind == "message" or kind.endswith("_call"):
                talk.answers += 1
        if not (found := self._answer(talk, not talk.tools)):
            return
        answer, tokens = found
        unique = time.time_ns()
        if answer[0] == "say":
            item = {"type": "message", "id": f"msg_{unique}", "role": "assistant", "content": [{"type": "output_text", "text": answer[1], "annotations": []}]}
        elif talk.tools.get(answer[1]) == "custom":
            item = {"type": "custom_tool_call", "id": f"ctc_{unique}", "call_id": f"call_{unique}", "name": answer[1], "input": answer[2]}
        else:
            arguments = answer[2] if isinstance(answer[2], dict) else {"input": answer[2]}
            item = {"type": "function_call", "id": f"fc_{unique}", "call_id": f"call_{unique}", "name": answer[1], "arguments": json.dumps(arguments)}
            if len(answer) > 3:
                item["namespace"] = answer[3]
        item["status"] = "completed"
        usage = {"input_tokens": tokens.prompt, "input_tokens_details": {"cached_tokens": tokens.cache_read},
                 "output_tokens": tokens.output, "output_tokens_details": {"reasoning_tokens": tokens.reasoning}, "total_tokens": tokens.prompt + tokens.output}
        response = {"id": f"resp_{unique}", "object": "response", "created_at": int(time.time()), "model": talk.model, "status": "in_progress", "output": []}
        completed = {**response, "status": "completed", "output": [item], "usage": usage}
        if not body.get("stream"):
            return self._reply(200, completed)
        self._start_stream()
        self._event({"type": "response.created", "response": response})
        self._event({"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress"}})
        if answer[0] == "say":
            self._event({"type": "response.output_text.delta", "item_id": item["id"], "output_index": 0, "content_index": 0, "delta": answer[1]})
        self._event({"type": "response.output_item.done", "output_index": 0, "item": item})
        self._event({"type": "response.completed", "response": completed})

    def _chat(self, body):
        talk = Conversation("chat", body.get("model"))
        talk.tools = {tool["function"]["name"]: "function" for tool in body.get("tools") or []}
        for message in body.get("messages", []):
            text = _text_of(message.get("content"))
            if message["role"] == "user":
                talk.add_user(text)
            elif message["role"] == "system":
                talk.system += text + "\n"
            elif message["role"] == "assistant":
                talk.answers += 1
        # Aider has no tools; what it asks for beside the work has no script.
        if not (found := self._answer(talk, not talk.tools and (not talk.steps() or "title" in talk.system.lower()))):
            return
        answer, tokens = found
        usage = {"prompt_tokens": tokens.prompt, "completion_tokens": tokens.output, "total_tokens": tokens.prompt + tokens.output,
                 "prompt_tokens_details": {"cached_tokens": tokens.cache_read}, "completion_tokens_details": {"reasoning_tokens": tokens.reasoning}}
        if answer[0] == "say":
            message, finish = {"role": "assistant", "content": answer[1]}, "stop"
        else:
            call = {"index": 0, "id": f"call_{time.time_ns()}", "type": "function", "function": {"name": answer[1], "arguments": json.dumps(answer[2])}}
            message, finish = {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
        base = {"id": f"chatcmpl-{time.time_ns()}", "created": int(time.time()), "model": talk.model}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": finish}
            return self._reply(200, {**base, "object": "chat.completion", "choices": [choice], "usage": usage})
        self._start_stream()
        base["object"] = "chat.completion.chunk"
        self._event({**base, "choices": [{"index": 0, "delta": message, "finish_reason": None}]}, is_named=False)
        self._event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}, is_named=False)
        self._event({**base, "choices": [], "usage": usage}, is_named=False)
        self._event("[DONE]", is_named=False)

    def _gemini(self, body, path):
        talk = Conversation("gemini", path.split("/")[-1].split(":")[0])
        talk.system = _text_of((body.get("systemInstruction") or {}).get("parts"))
        for group in body.get("tools") or []:
            talk.tools |= {tool["name"]: "function" for tool in group.get("functionDeclarations", [])}
        for content in body.get("contents", []):
            parts = content.get("parts", [])
            if content.get("role") == "model":
                talk.answers += 1
            elif text := _text_of(parts):
                talk.add_user(text)
        helper = "scripted"
        if (body.get("generationConfig") or {}).get("responseMimeType") == "application/json":
            helper = json.dumps({"reasoning": "x", "model_choice": "flash", "next_speaker": "user", "complexity_reasoning": "x", "complexity_score": 10})
        if not (found := self._answer(talk, not talk.tools, helper)):
            return
        answer, tokens = found
        part = {"text": answer[1]} if answer[0] == "say" else {"functionCall": {"name": answer[1], "args": answer[2]}}
        # Gemini counts what the model thought beside what it answered.
        usage = {"promptTokenCount": tokens.prompt, "cachedContentTokenCount": tokens.cache_read, "candidatesTokenCount": tokens.output - tokens.reasoning,
                 "thoughtsTokenCount": tokens.reasoning, "totalTokenCount": tokens.prompt + tokens.output}
        candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
        value = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": talk.model}
        if "stream" not in path:
            return self._reply(200, value)
        self._start_stream()
        self._event(value, is_named=False)


def _text_of(content):
    """The text of a message, whether it is a string or parts."""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content or [] if isinstance(part, dict) and part.get("text"))


if __name__ == "__main__":
    folder = sys.argv[2] if len(sys.argv) > 2 else None
    with ScriptedModel(int(sys.argv[1]) if len(sys.argv) > 1 else 0, folder) as server:
        print(server.url, flush=True)
        seen = 0
        while True:
            time.sleep(0.2)
            for line in server.log[seen:]:
                print(line, flush=True)
                seen += 1
