"""Fixed texts: a few on which two models' predictions are compared, and general ones on which an evaluation measures what
an adapter changed besides its task.

Source: all of them were written for this project; none is from a book, a website or another data set. Measurements can
be compared only on the same texts, cut at the same length, so they are recorded with a digest of both.

>>> TEXTS_DIGEST[:12], len(GENERAL_TEXTS), GENERAL_DIGEST[:12]
('e381bb3b6085', 32, 'd6a0e6d8351d')
"""

from __future__ import annotations

from sdk.schemas.wire import digest_of

#: Prose, code, a dialogue, a table and numbers: short, and of kinds that models are typically asked for.
PROBE_TEXTS = (
    "The committee met on Tuesday to discuss the budget for the coming year. After two hours of debate, the members"
    " agreed to postpone the decision until the audit is complete, and asked the treasurer to prepare a summary.",
    "def moving_average(values, width):\n    if width < 1:\n        raise ValueError('width must be positive')\n"
    "    total = sum(values[:width])\n    yield total / width\n    for old, new in zip(values, values[width:]):\n"
    "        total += new - old\n        yield total / width\n",
    "Question: Why does ice float on water?\nAnswer: Ice is less dense than liquid water, because its molecules are"
    " held in an open lattice by hydrogen bonds. A given mass of ice therefore takes up more room than the water.\n",
    '{"order": 1042, "customer": "Ada Lovelace", "items": [{"sku": "A-7", "count": 3, "price": 19.99}],'
    ' "shipped": false, "note": "Leave the parcel with the neighbour."}',
)
#: SHA-256 over the texts as a JSON list.
TEXTS_DIGEST = digest_of(list(PROBE_TEXTS))

#: What a base and an adapter continue, so that an engine can be compared with it: of kinds that adapters are trained on.
PROMPT_TEXTS = (
    "Summarise in one sentence what happened. The committee met on Tuesday to discuss the budget for the coming year. Summary:",
    "def moving_average(values, width):\n    if width < 1:\n        raise ValueError('width must be positive')\n    ",
    "User: My parcel arrived broken, and nobody answers my letters. What should I do now?\nAssistant:",
    'Order 1042 of Ada Lovelace, three pieces at 19.99, not shipped yet.\nAs JSON:\n{"order": ',
)
#: The most tokens of each.
PROMPT_TOKENS = 24
#: SHA-256 over the prompts and the length at which they are cut.
PROMPTS_DIGEST = digest_of({"prompts": list(PROMPT_TEXTS), "most_tokens": PROMPT_TOKENS})


_PROSE = (
    "The harbour was quiet when the first boats came in. A boy carried crates of ice across the quay while his uncle"
    " counted the fish, and by seven o'clock the market behind the church had opened its doors.",
    "Rain that falls on the hills takes about two days to reach the reservoir. In dry summers most of it is lost on the"
    " way, because the soil takes up what the streams would otherwise carry.",
    "Before you replace the battery, switch the device off and unplug it. Remove the two screws on the back, lift the"
    " cover, and disconnect the cable by pulling the plug, never the wires.",
    "The museum's new wing holds some four hundred paintings, most of which had not been shown for decades. Visitors"
    " enter through the old library, whose shelves were left where they stood.",
    "Dear Mrs. Hill, thank you for your letter of 12 March. We are sorry that your order arrived late. A refund of the"
    " shipping costs has been sent to your account. Yours sincerely, Peter Lang",
    "Plants make sugar from water and carbon dioxide with the energy of light. The oxygen that they give off comes from"
    " the water, not from the carbon dioxide, as was long believed.",
    "She closed the book and looked out of the window. It had snowed all night, and the street lamps were still on."
    " Nobody had walked to the gate yet. She thought of the letter again, and decided to answer it.",
    "A contract is an agreement that a court will enforce. It needs an offer, an acceptance, and something of value that"
    " each side gives. A promise alone, however serious, is usually not enough.",
)
_ASKED = (
    "Question: What is the capital of Australia?\nAnswer: The capital of Australia is Canberra. Sydney is larger, but it"
    " has never been the capital.\n",
    "User: Can you give me three uses for baking soda?\nAssistant: Yes. 1. It makes dough rise. 2. It takes smells out of"
    " a fridge. 3. With vinegar, it cleans a blocked drain.\n",
    "Summarise in one sentence: The bridge was closed on Monday after an inspection found rust in two cables. Repairs"
    " will take a month.\nSummary: Rust in two cables has closed the bridge for a month.\n",
    "Translate into French: The train leaves at nine.\nLe train part à neuf heures.\nTranslate into French: Where is the"
    " station?\nOù est la gare ?\n",
)
_CODE = (
    "def binary_search(items, wanted):\n    low, high = 0, len(items)\n    while low < high:\n        middle = (low + high)"
    " // 2\n        if items[middle] < wanted:\n            low = middle + 1\n        else:\n            high = middle\n"
    "    return low\n",
    '#include <stdio.h>\n\nint main(void) {\n    for (int i = 1; i <= 10; i++) {\n        printf("%d squared is %d\\n", i,'
    " i * i);\n    }\n    return 0;\n}\n",
    "SELECT customer.name, COUNT(*) AS orders\nFROM customer\nJOIN purchase ON purchase.customer_id = customer.id\n"
    "WHERE purchase.placed_at >= '2024-01-01'\nGROUP BY customer.name\nORDER BY orders DESC;\n",
    '{"name": "sensor-17", "unit": "celsius", "readings": [21.5, 21.7, 22.0], "online": true, "location": {"room": "lab",'
    ' "floor": 2}}\n',
    "const button = document.querySelector('#save');\nbutton.addEventListener('click', async () => {\n  const answer ="
    " await fetch('/api/items', { method: 'POST' });\n  console.log(answer.status);\n});\n",
    '#!/bin/sh\nset -e\nfor file in *.log; do\n  if grep -q ERROR "$file"; then\n    echo "$file has errors"\n  fi\ndone\n',
)
_NUMBERS = (
    "3 + 4 = 7\n12 + 9 = 21\n25 - 8 = 17\n6 * 7 = 42\n81 / 9 = 9\n15 * 4 = 60\n100 - 37 = 63\n2 + 2 = 4\n",
    "A train travels 180 km in 2 hours. Its average speed is 180 / 2 = 90 km/h. In 3 hours at that speed it travels"
    " 3 * 90 = 270 km.\n",
    "1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024\n1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144\n",
    "| month | sales | change |\n|---|---|---|\n| January | 120 | |\n| February | 150 | +30 |\n| March | 135 | -15 |\n",
)
_LANGUAGES = (
    "Der Zug nach Hamburg hat heute zwanzig Minuten Verspätung. Wir bitten um Ihr Verständnis. Die Türen schließen"
    " selbsttätig.",
    "Le marché a lieu tous les samedis sur la place. On y trouve des légumes, du fromage et des fleurs de la région.",
    "Mañana por la mañana vamos a la playa si no llueve. ¿Quieres venir con nosotros?",
    "Вчера мы долго гуляли по городу. Погода была тёплая, и на улицах было много людей.",
    "Το πρωί πίνω καφέ και διαβάζω την εφημερίδα. Μετά πηγαίνω στη δουλειά με το λεωφορείο.",
    "今天天气很好，我们去公园散步。路上遇到了一位老朋友，聊了很久。",
    "駅前の本屋で新しい雑誌を買いました。帰りに友達と喫茶店でお茶を飲みました。",
    "오늘은 학교에서 한국의 역사를 배웠습니다. 내일은 시험이 있습니다.",
    "ذهبت إلى السوق صباح اليوم واشتريت الخبز والتفاح. كان الجو جميلا.",
    "आज सुबह बहुत ठंड थी। हम ने चाय पी और फिर बाज़ार गए।",
)
#: Prose, questions, code, numbers, and ten other languages in seven alphabets besides the Latin one.
GENERAL_TEXTS = (*_PROSE, *_ASKED, *_CODE, *_NUMBERS, *_LANGUAGES)
#: The most tokens of each: reading them should take little time compared with the adapter's own rows.
MOST_TOKENS = 12
#: SHA-256 over the texts and the length at which they are cut.
GENERAL_DIGEST = digest_of({"texts": list(GENERAL_TEXTS), "most_tokens": MOST_TOKENS})
