"""The pools of common words that values are drawn from. The pools of made-up names come with the world."""

from __future__ import annotations


def words(line: str) -> tuple[str, ...]:
    return tuple(line.split())


POOLS: dict[str, tuple[str, ...]] = {
    "year": tuple(str(year) for year in range(1400, 1480)),
    "craft": words(
        "baker barber blacksmith bookbinder brewer butcher carpenter cartographer chandler cobbler cook "
        "cooper dyer falconer farrier fisher fletcher gardener glazier goldsmith hatter jeweller locksmith "
        "mason midwife miller miner notary painter potter printer ropemaker saddler sculptor shepherd "
        "surgeon tailor tanner thatcher weaver"
    ),
    "instrument": words(
        "bagpipe bassoon bugle cello clarinet cornet drum dulcimer fiddle flute gong guitar harp horn lute "
        "lyre mandolin organ psaltery rattle tambourine trumpet viola zither"
    ),
    "pet": words(
        "badger beaver cat crow dog donkey ferret fox goat goose hare hedgehog jackdaw lizard magpie monkey "
        "parrot pig pony rabbit raven squirrel toad tortoise"
    ),
    "ware": words(
        "amber barley butter candles cheese cloth coal copper cotton flax furs glass grain honey iron lace "
        "leather paper pearls pepper salt silk timber wine"
    ),
    "subject": words(
        "alchemy anatomy astronomy baking botany chess comets dreams eclipses ethics fencing geometry "
        "grammar heraldry history hunting law logic magnets medicine music poetry rhetoric tides"
    ),
    "stone": words("alabaster basalt brick chalk flint gneiss granite limestone marble sandstone slate travertine"),
}
