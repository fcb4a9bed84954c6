"""Writes the rows of src/links/urljoin_cases.rs: what Python's urljoin answers. Made with CPython 3.11.7.
    python urljoin.py"""
from urllib.parse import urljoin

DOCUMENT = "http://a.example/b/c/d;p?q"
# RFC 3986 section 5.4, then schemes, blanks, brackets, hosts that NFKC would split, parameters.
REFERENCES = """g ./g g/ /g //g //g/x ?y g?y #s g#s g?y#s ;x g;x g;x?y#s . ./ .. ../ ../g ../.. ../../ ../../g
../../../g ../../../../g /./g /../g g. .g g.. ..g ./../g ./g/. g/./h g/../h g;x=1/./y g;x=1/../y g?y/./x g?y/../x
g#s/./x g#s/../x http:g http: HTTP://H.example/X https://h.example/x javascript:void(0) data:image/png;base64,AAAA
mailto:a@b g:h a:1 1:2 g//h g//h// // ///g ////g //h?x //h# ? # g? g# g?# g??x#y#z //[::1]/x //[v1.x]/x
//[1.2.3.4]/x //[::1/x //::1]/x //[fe80::1%25eth0]/x //[fe80::1%]/x //b\u00fccher.example/\u00fc \u00fc.png a%2fb
..;x ..?x ... g; ; g;;x a;b/c;d //u:p@h:80/x \\g http:///x http:// https:g http:/g http://?x HTTP:g % //h:bad/x
//h\uff0fx/y //\u2100x/y x\u00a0y \u00a0x""".split(" ")
REFERENCES = [part for line in REFERENCES for part in line.split("\n")]
REFERENCES += ["", " http://h.example/x", "  g", "g h", "g\tx\ny", "\x01g"]
BASES = ["http://a.example", "http://a.example/", "http://a.example/b", "http://a.example?q", "http://a.example/b//c/",
         "", "a/b", "//a.example/b", "https://a.example/x/y/", "http://a.example/;p", "mailto:x@y", "file:///etc/x",
         "http://[bad/x", " http://a.example/b/c", "HTTP://A.example/b", "http://a.example/../x/y", "http:b/c",
         "http:///b/c"]


def quoted(text):
    plain = lambda c: "\\" + c if c in '"\\' else c if " " <= c <= "~" else "\\u{%x}" % ord(c)
    return '"' + "".join(map(plain, text)) + '"'


cases = [(DOCUMENT, url) for url in REFERENCES]
cases += [(base, url) for base in BASES for url in ["g", "../g", "?y", "", "/g", "//h/x", "#f", ".", "a/../../b"]]
for base, url in cases:
    try:
        joined = f"Some({quoted(urljoin(base, url))})"
    except ValueError:
        joined = "None"
    print(f"    ({quoted(base)}, {quoted(url)}, {joined}),")
