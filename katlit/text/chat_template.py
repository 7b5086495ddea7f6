r"""The chat template: a conversation as the text that the model sees (recipe §1; our choice where open).

The generation prompt ends in `<judge>\n`, or, where a caller switched thinking on or off, in a judge text and
the mode marker. The switches are `thinking` ("auto", "on", "off", true, false), `enable_thinking` and
`reasoning_effort` ("none" and "minimal" are off, all others on). Past assistant turns keep only their answer,
but those after the last turn of the user, in a loop of tools, keep all. Tools, their calls and their results
are written in Hermes' form; of a tool only name, description and parameters, in this order, as every server
hands them on. No default system turn, no beginning-of-text token.

Everything that comes from outside is escaped, see `katlit.text.forgery`.
"""

from collections.abc import Mapping

from katlit.text.parser import MARK_SIGN, MARKERS, TURN_END, TURN_START, Mode, unframe
from katlit.text.tool_calls import CALL_TAGS

# Short, and without a full stop at the end, which some tokenizers would join with the line break after it.
FORCED_JUDGES = {
    Mode.THINK_ON: "The user asks for reasoning",
    Mode.THINK_OFF: "The user asks for a direct answer",
}
AFTER_JUDGE = "\n\n"  # between `</judge>` and the mode marker

_TOOLS_BEFORE = (
    "# Tools\n\n"
    "You can call these tools to help the user: none, one or several. A line is the schema of one:\n<tools>"
)
_TOOLS_AFTER = (
    "\n</tools>\n\n"
    "To call a tool, end the answer with a block like this, one for each call:\n"
    '<tool_call>\n{"name": <name of the tool>, "arguments": <object of its arguments>}\n</tool_call>'
)

# How the switches of various clients name the mode, the most particular one first. vLLM turns every
# `reasoning_effort` but "none" into `enable_thinking`, so "minimal" has to be read before that.
_SWITCH = """
{%- set effort = reasoning_effort | default(none) -%}
{%- set enable = enable_thinking | default(none) -%}
{%- set mode = thinking | default(none) -%}
{%- if mode is none -%}
{%- if effort in ['none', 'minimal'] -%}{%- set mode = 'off' -%}
{%- elif enable is string -%}
{{- raise_exception('enable_thinking must be true or false') -}}
{%- elif enable is not none -%}{%- set mode = 'on' if enable else 'off' -%}
{%- else -%}{%- set mode = 'auto' if effort is none else 'on' -%}
{%- endif -%}
{%- elif mode is boolean -%}{%- set mode = 'on' if mode else 'off' -%}
{%- elif mode not in ['auto', 'on', 'off'] -%}
{{- raise_exception('thinking must be auto, on or off') -}}
{%- endif -%}
"""

_MACROS = r"""
{%- set foreign = [FOREIGN] -%}
{%- set own = [OWN] -%}
{%- macro plain(text, spellings) -%}
{%- set out = namespace(text=text) -%}
{%- for pair in spellings -%}
{%- if pair[0] in text -%}{%- set out.text = out.text | replace(pair[0], pair[1]) -%}{%- endif -%}
{%- endfor -%}
{{- out.text -}}
{%- endmacro -%}
{%- macro text_of(content) -%}
{%- if content is string -%}{{- content -}}
{%- elif content -%}
{%- for part in content -%}
{%- if not loop.first -%}{{- '\n' -}}{%- endif -%}
{%- if part is string -%}{{- part -}}
{%- elif part['text'] is string -%}{{- part['text'] -}}
{%- else -%}{{- raise_exception('content must be text') -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro schema(tool) -%}
{%- set function = tool['function'] or tool -%}
{{- '{"type": "function", "function": {"name": ' + (function['name'] | tojson) -}}
{%- for key in ['description', 'parameters'] -%}
{%- if function[key] is defined and function[key] is not none -%}
{{- ', "' + key + '": ' + (function[key] | tojson) -}}
{%- endif -%}
{%- endfor -%}
{{- '}}' -}}
{%- endmacro -%}
{%- macro unframed(text) -%}
{%- set out = namespace(text=text) -%}
{%- if out.text.startswith('\n') -%}{%- set out.text = out.text[1:] -%}{%- endif -%}
{%- if out.text.endswith('\n') -%}{%- set out.text = out.text[:-1] -%}{%- endif -%}
{{- out.text -}}
{%- endmacro -%}
"""

_SYSTEM = r"""
{%- set offered = tools | default(none) -%}
{%- set last = namespace(user=-1) -%}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'developer', 'user', 'assistant', 'tool'] -%}
{{- raise_exception('role must be system, user, assistant or tool') -}}
{%- endif -%}
{%- if message['role'] == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- if offered -%}
{{- 'START' + 'system\n' -}}
{%- if messages and messages[0]['role'] in ['system', 'developer'] -%}
{%- set content = text_of(messages[0]['content']) -%}
{%- if content -%}{{- plain(content, foreign) + '\n\n' -}}{%- endif -%}
{%- endif -%}
{{- 'TOOLS_BEFORE' -}}
{%- for tool in offered -%}{{- '\n' + plain(schema(tool), foreign) -}}{%- endfor -%}
{{- 'TOOLS_AFTER' + 'END\n' -}}
{%- endif -%}
"""

# In Jinja as `answer_of` is in Python; only what other implementations of Jinja know as well.
_ASSISTANT = r"""
{%- set content = content | replace('SIGN<', '<') -%}
{%- set thought = message['reasoning_content'] or message['reasoning'] or '' -%}
{%- set turn = namespace(answer=content, think=thought, judge='', off=false) -%}
{%- set start = content | trim -%}
{%- if '</judge>\n\n<think_o' in content or STARTS -%}
{%- set head = content.split('<answer>')[0] -%}
{%- set turn.off = '<think_off>' in head -%}
{%- if '</judge>' in head -%}
{%- set turn.judge = unframed(head.split('</judge>')[0].split('<judge>') | last) -%}
{%- endif -%}
{%- set turn.answer = '' -%}
{%- if '<think>' in head -%}
{%- set after = content.split('</think>')[1:] | join('</think>') -%}
{%- if '</think>' in content -%}
{%- set inner = content.split('</think>')[0].split('<think>')[1:] | join('<think>') -%}
{%- set turn.think = unframed(inner) -%}
{%- endif -%}
{%- set inside = after.split('<answer>')[1:] | join('<answer>') -%}
{%- if '<answer>' not in after -%}
{%- set turn.answer = (after.split('</think>') | last).strip('\n') -%}
{%- endif -%}
{%- else -%}
{%- set inside = content.split('<answer>')[1:] | join('<answer>') -%}
{%- endif -%}
{%- if '</answer>' in inside -%}
{%- set inside = inside.split('</answer>')[:-1] | join('</answer>') -%}
{%- endif -%}
{%- if inside -%}{%- set turn.answer = unframed(inside) -%}{%- endif -%}
{%- endif -%}
{%- set whole = loop.index0 > last.user and (turn.think or turn.off) -%}
{%- if whole -%}
{{- '<judge>\n' -}}
{%- if turn.off -%}
{{- (plain(turn.judge, foreign) or 'FORCED_OFF') + '\n</judge>\n\n<think_off>\n\n' -}}
{%- else -%}
{{- (plain(turn.judge, foreign) or 'FORCED_ON') + '\n</judge>\n\n<think_on>\n<think>\n' -}}
{{- plain(turn.think, foreign) + '\n</think>\n\n' -}}
{%- endif -%}
{{- '<answer>\n' -}}
{%- endif -%}
{{- plain(turn.answer, own) -}}
{%- for call in message['tool_calls'] or [] -%}
{%- if turn.answer or not loop.first -%}{{- '\n' -}}{%- endif -%}
{%- set function = call['function'] or call -%}
{%- set given = function['arguments'] -%}
{%- set given = given if given is string else (given or {}) | tojson -%}
{%- set block = '{"name": ' + (function['name'] | tojson) + ', "arguments": ' + given + '}' -%}
{{- '<tool_call>\n' + plain(block, foreign) + '\n</tool_call>' -}}
{%- endfor -%}
{%- if whole -%}{{- '\n</answer>' -}}{%- endif -%}
"""

_TURNS = r"""
{%- for message in messages -%}
{%- set role = 'system' if message['role'] == 'developer' else message['role'] -%}
{%- set content = text_of(message['content']) -%}
{%- if role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1]['role'] != 'tool' -%}{{- 'START' + 'user' -}}{%- endif -%}
{{- '\n<tool_response>\n' + plain(content, foreign) + '\n</tool_response>' -}}
{%- if loop.last or messages[loop.index0 + 1]['role'] != 'tool' -%}{{- 'END\n' -}}{%- endif -%}
{%- elif not (loop.first and role == 'system' and offered) -%}
{{- 'START' + role + '\n' -}}
{%- if role == 'assistant' -%}
ASSISTANT
{%- else -%}
{{- plain(content, foreign) -}}
{%- endif -%}
{{- 'END\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'START' + 'assistant\n<judge>\n' -}}
PREFILLS
{%- endif -%}
"""


def _forced(mode: Mode) -> str:
    prefill = _literal(f"{FORCED_JUDGES[mode]}\n</judge>{AFTER_JUDGE}{mode.marker}")
    return f"{{%- if mode == '{mode.value}' -%}}{{{{- {prefill} -}}}}{{%- endif -%}}"


def _literal(text: str) -> str:
    """A text as Jinja writes it."""
    quoted = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{quoted}'"


_OPENINGS = [marker for marker in MARKERS if not marker.startswith("</")]
_WORDS = {
    "'START' + ": f"'{TURN_START}' + ",
    "'END\\n'": f"'{TURN_END}\\n'",
    "'TOOLS_BEFORE'": _literal(_TOOLS_BEFORE),
    "'TOOLS_AFTER'": _literal(_TOOLS_AFTER),
    "ASSISTANT\n": _ASSISTANT,
    "SIGN": MARK_SIGN,
    "STARTS": " or ".join(f"start.startswith('{marker}')" for marker in _OPENINGS),
    "'FORCED_ON'": _literal(FORCED_JUDGES[Mode.THINK_ON]),
    "'FORCED_OFF'": _literal(FORCED_JUDGES[Mode.THINK_OFF]),
    "PREFILLS": "".join(map(_forced, Mode)),
}


def chat_template(escapes: Mapping[str, str]) -> str:
    """Write the template for a tokenizer.

    Args:
        escapes: What no foreign text may spell, and what is written instead.
    """
    template = _MACROS + _SWITCH + _SYSTEM + _TURNS
    for word, text in _WORDS.items():
        template = template.replace(word, text)
    # In an answer the tags of calls are the model's own.
    own = {spelling: text for spelling, text in escapes.items() if spelling not in CALL_TAGS}
    pairs = {"[FOREIGN]": escapes, "[OWN]": own}
    template = template.replace("\n", "")
    for word, mapping in pairs.items():
        lists = ", ".join(f"[{_literal(spelling)}, {_literal(text)}]" for spelling, text in mapping.items())
        template = template.replace(word, f"[{lists}]")
    return template


def answer_of(text: str) -> str:
    """Cut an assistant turn to the text inside `<answer>`; a turn that is none of the protocol is all answer.

    The answer starts after the thinking, which may speak of answers, and ends at the last `</answer>`. A turn
    that was cut before its answer has none; of one that only closes a thinking, what follows is the answer.
    """
    text = text.replace(f"{MARK_SIGN}<", "<")
    if not ("</judge>\n\n<think_o" in text or text.strip().startswith(tuple(_OPENINGS))):
        return text
    inside = text.partition("<answer>")[2]
    if "<think>" in text.partition("<answer>")[0]:
        after = text.partition("</think>")[2]
        if "<answer>" not in after:
            return after.rpartition("</think>")[2].strip("\n")
        inside = after.partition("<answer>")[2]
    return unframe(inside.rpartition("</answer>")[0] if "</answer>" in inside else inside)
