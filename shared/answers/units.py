"""Units of measurement by one name each, so that 5 m is not 5 cm and 5 centimetres are."""

import re

_NAMES = """
km kilometer kilometers kilometre kilometres kms 千米 公里
m meter meters metre metres 米
dm decimeter decimeters decimetre decimetres 分米
cm centimeter centimeters centimetre centimetres cms 厘米
mm millimeter millimeters millimetre millimetres 毫米
in inch inches
ft foot feet
yd yard yards
mi mile miles
kg kilogram kilograms kgs 千克 公斤
g gram grams 克
mg milligram milligrams
t ton tons tonne tonnes 吨
lb lbs pound pounds
oz ounce ounces
l liter liters litre litres 升
ml milliliter milliliters millilitre millilitres 毫升
s sec secs second seconds 秒
min mins minute minutes 分钟
h hr hrs hour hours 小时
day days 天
week weeks
month months
year years 年
degree degrees deg ° º 度
rad radian radians
n newton newtons
j joule joules
w watt watts
v volt volts
a amp amps ampere amperes
ohm ohms ω
hz hertz
pa pascal pascals
$ usd dollar dollars
€ eur euro euros
cent cents
mph
k kelvin
°C c celsius
°F f fahrenheit
"""
_PREFIXES = {
    **{"n": "nano", "μ": "micro", "u": "micro", "m": "milli", "c": "centi"},
    **{"k": "kilo", "M": "mega", "G": "giga", "T": "tera"},
}
_BASES = {
    **{"m": "meter", "g": "gram", "s": "second", "L": "liter", "W": "watt", "V": "volt", "A": "amp|ampere"},
    **{"Ω": "ohm", "Hz": "hertz", "Pa": "pascal", "J": "joule", "N": "newton", "F": "farad", "C": "coulomb"},
    **{"eV": "electronvolt", "mol": "mole", "B": "byte", "T": "tesla"},
}
_ONE = {alias: line.split()[0] for line in _NAMES.strip().splitlines() for alias in line.split()}
_PREFIXED = {
    form: f"{prefix} {names}"
    for sign, prefix in _PREFIXES.items()
    for base, names in _BASES.items()
    for form in (sign + base, *(f"{prefix}{name}{ending}" for name in names.split("|") for ending in ("", "s")))
}
"""By sign, whose case counts (`MW` is no `mW`), and by word."""
_PREFIXED |= {sign.lower(): name for sign, name in _PREFIXED.items() if name.startswith("kilo")}
_CIRCLE = re.compile(r"\^? ?\{? ?(?:\\circ|°|º|\\degrees?|(?<=\^)o) ?\}? ?([CFK]?)")
_SQUARE, _CUBIC = ("square ", "sq ", "sq. "), ("cubic ", "cu ")
_POWER = re.compile(r" ?\^ ?\{? ?([23]) ?\}?$|(?<=[A-Za-z])([23])$")


def known_unit(text: str) -> str:
    """The one name of the unit that `text` is; "" for text that is none of the known ones."""
    text = re.sub(r"\([^()]*\)", "", text).strip(" -.,;!。")
    circle = _CIRCLE.fullmatch(text)
    if circle is not None:
        return f"°{circle[1]}"
    power = ""
    for prefixes, exponent in ((_SQUARE, "2"), (_CUBIC, "3")):
        for prefix in prefixes:
            if text.lower().startswith(prefix):
                text, power = text[len(prefix) :], exponent
    found = _POWER.search(text)
    if found is not None:
        text, power = text[: found.start()], found[1] or found[2]
    parts = [_name(part.strip(" .")) for part in re.split(r"/| per ", text)]
    if not all(parts):
        return ""
    name = "/".join(parts)
    return f"°{power}" if name == "degree" else name + power


def _name(unit: str) -> str:
    folded = unit.lower()
    return _ONE.get(folded) or _PREFIXED.get(unit) or _PREFIXED.get(folded, "")
