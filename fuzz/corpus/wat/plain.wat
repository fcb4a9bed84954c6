WARC/1.0
WARC-Type: metadata
Content-Type: application/json
Content-Length: 426

{"Container": {"Filename": "a.warc.gz"}, "Envelope": {"WARC-Header-Metadata": {"WARC-Target-URI": "http://a.example/x/"}, "Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": {"Links": [{"path": "IMG@/src", "url": "cat.jpg", "alt": "a cat"}, {"path": "A@/href", "url": "/b"}, {"path": "IMG@/src", "url": "//b.example/1.png", "alt": "two \u00e9\ud83d\ude00"}, {"path": "IMG@/src", "url": "data:x", "alt": "d"}]}}}}}

WARC/1.0
WARC-Type: metadata
Content-Type: application/json
Content-Length: 386

{"Container": {"Filename": "a.warc.gz"}, "Envelope": {"WARC-Header-Metadata": {"WARC-Target-URI": "http://a.example/x/"}, "Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": {"Links": [{"path": "IMG@/src", "url": "../cat.jpg?x#y", "alt": "a"}, {"path": "IMG@/src", "alt": "no url"}, {"path": "IMG@/src", "url": 3, "alt": []}], "Head": {"Base": "https://b.example/c/d"}}}}}}

