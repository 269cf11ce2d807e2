"""Chat templates, and the ids that plain calls of a tokenizer make of a chat."""

TURNS = "{% for m in messages %}<turn>{{ m.role[0] }}\n{{ m.content }}<eos>{% endfor %}"
CHATML = TURNS + "{% if add_generation_prompt %}<turn>a\n{% endif %}"
ANSWER = "{% if m.role == 'assistant' %} {{ m.content }}<eos>{% else %}[{{ m.content }}]{% endif %}"
INST = "{{ bos_token }}{% for m in messages %}" + ANSWER + "{% endfor %}"
REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
DROPPING = "{% for m in messages %}{% if m.role != 'system' %}<turn>{{ m.content | trim }}{% endif %}{% endfor %}<turn>"
THINKING = CHATML.replace("<turn>a\n{%", "<turn>a\n<think>\n{%")
TEMPLATES = {
    "one": (CHATML, CHATML, CHATML),
    "tuned's": (None, CHATML, None),
    "their own": (INST, CHATML, REFUSING),
}


def by_template(tokenizer, template, chat):
    """The ids that transformers has; those of text where there is no template."""
    if isinstance(chat, str):
        return tokenizer(chat).input_ids
    last = chat[-1]["role"] == "assistant"
    how = {"continue_final_message": True} if last else {"add_generation_prompt": True}
    return tokenizer.apply_chat_template(chat, chat_template=template, return_dict=False, **how)


def read(model, *args, chat="template", **prompts):
    """The ids that each model reads, by its name."""
    found = model.encode(args[0] if args else None, prompts or None, {"chat": chat}, model.method)
    return {name: found.get(name, found["large"]).rows for name in ("large", "tuned", "base")}


def each(*ids):
    return dict(zip(("large", "tuned", "base"), ([row] for row in ids), strict=True))
