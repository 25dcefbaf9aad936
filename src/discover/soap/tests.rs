//! Answers as devices give them, and as nobody should.

use proptest::prelude::*;

use super::*;

const ID: Uuid = Uuid::from_u128(0x5f5a69c2_e0ae_504f_829b_00afa538ac17);

/// An answer in the form that most firmware gives it, with the prefixes of gSOAP.
fn answer(related: &str, types: &str, scopes: &str, xaddrs: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <SOAP-ENV:Envelope xmlns:SOAP-ENV=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:wsa=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
         xmlns:wsdd=\"http://schemas.xmlsoap.org/ws/2005/04/discovery\"><SOAP-ENV:Header><wsa:MessageID>uuid:1</wsa:MessageID>\
         <wsa:RelatesTo>{related}</wsa:RelatesTo></SOAP-ENV:Header><SOAP-ENV:Body><wsdd:ProbeMatches><wsdd:ProbeMatch>\
         <wsa:EndpointReference><wsa:Address>urn:uuid:cam-1</wsa:Address></wsa:EndpointReference><wsdd:Types>{types}</wsdd:Types>\
         <wsdd:Scopes>{scopes}</wsdd:Scopes><wsdd:XAddrs>{xaddrs}</wsdd:XAddrs><wsdd:MetadataVersion>1</wsdd:MetadataVersion>\
         </wsdd:ProbeMatch></wsdd:ProbeMatches></SOAP-ENV:Body></SOAP-ENV:Envelope>"
    )
}

fn read(text: &str) -> Vec<Match> {
    matches(text.as_bytes(), &[ID]).unwrap()
}

const TYPES: &str = "dn:NetworkVideoTransmitter tds:Device";

#[test]
fn an_answer_tells_where_a_camera_is_and_what_it_is_called() {
    let scopes = "onvif://www.onvif.org/name/Dock%20Camera\n ONVIF://www.onvif.org/hardware/DS-2CD \
                  onvif://www.onvif.org/location/country/china onvif://www.onvif.org/location/city/hangzhou http://other/name/x";
    let found = read(&answer(
        &format!("uuid:{ID}"),
        TYPES,
        scopes,
        " http://10.0.0.12/onvif/device_service https://10.0.0.12/x ",
    ));
    let [camera] = &found[..] else { panic!("{found:?}") };
    assert_eq!(camera.endpoint, "urn:uuid:cam-1");
    assert_eq!(camera.xaddrs.len(), 2);
    assert_eq!(said(&camera.scopes, "name").as_deref(), Some("Dock Camera"));
    assert_eq!(said(&camera.scopes, "hardware").as_deref(), Some("DS-2CD"));
    assert_eq!(said(&camera.scopes, "location").as_deref(), Some("country/china, city/hangzhou"));
}

#[test]
fn answers_to_other_questions_are_not_for_us() {
    for related in ["", "uuid:", "uuid:11111111-2222-3333-4444-555555555555", "x"] {
        assert_eq!(read(&answer(related, TYPES, "", "http://10.0.0.1/")), [], "{related}");
    }
    for related in [format!("urn:uuid:{ID}"), format!(" uuid:{}", ID.to_string().to_uppercase()), ID.to_string()] {
        assert_eq!(read(&answer(&related, TYPES, "", "http://10.0.0.1/")).len(), 1, "{related}");
    }
}

#[test]
fn printers_are_no_cameras() {
    assert_eq!(read(&answer(&format!("uuid:{ID}"), "wsdp:Device wprt:PrintDeviceType", "", "http://10.0.0.1/")), []);
    assert_eq!(read(&answer(&format!("uuid:{ID}"), "tds:Device", "onvif://www.onvif.org/type/x", "")).len(), 1);
}

#[test]
fn only_web_addresses_count_and_lose_their_credentials() {
    let all = "http://a:b@10.0.0.1/x file:///etc/passwd gopher://10.0.0.1 javascript:alert(1) ://";
    let found = read(&answer(&format!("uuid:{ID}"), TYPES, "", all));
    assert_eq!(found[0].xaddrs, ["http://10.0.0.1/x".parse().unwrap()]);
}

#[test]
fn the_digest_is_that_of_the_specification() {
    // The example of ONVIF's Application Programmer's Guide, 6.1.1.3.
    let login = OnvifLogin { username: "user".into(), password: Some(Secret::new("userpassword")) };
    let nonce = BASE64.decode("LKqI6G/AikKCQrN0zqZFlg==").unwrap();
    assert_eq!(login.digest(&nonce, "2010-09-16T07:50:45Z"), "tuOSpGlFlIXsozq4HFNeeGeFLEI=");
}

#[test]
fn a_question_is_xml_that_holds_no_password_whatever_the_user_is_called() {
    let login = OnvifLogin { username: "a<b>&\"'".into(), password: Some(Secret::new("hunter2")) };
    let question = Question::StreamUri(Media::One, "p<1>").envelope(Some((&login, &[7; 16], "2026-01-01T00:00:00Z")));
    let tree = Tree::parse(question.as_bytes(), BODY).unwrap();
    assert_eq!(tree.first("Username").unwrap().text(), login.username);
    assert_eq!(tree.first("ProfileToken").unwrap().text(), "p<1>");
    assert!(!question.contains("hunter2"));
}

fn body(inside: &str) -> Tree {
    let text = format!("<s:Envelope xmlns:s='x'><s:Header/><s:Body>{inside}</s:Body></s:Envelope>");
    Tree::parse(text.as_bytes(), BODY).unwrap()
}

#[test]
fn both_media_services_tell_their_profiles() {
    let one = "<trt:GetProfilesResponse><trt:Profiles fixed='true' token='Profile_1'><tt:Name>main &amp; only</tt:Name>\
               <tt:VideoSourceConfiguration token='v'><tt:Name>v</tt:Name></tt:VideoSourceConfiguration>\
               <tt:VideoEncoderConfiguration token='e'><tt:Name>e</tt:Name><tt:Encoding>H264</tt:Encoding><tt:Resolution><tt:Width>1920</tt:Width>\
               <tt:Height>1080</tt:Height></tt:Resolution><tt:RateControl><tt:FrameRateLimit>25</tt:FrameRateLimit></tt:RateControl>\
               </tt:VideoEncoderConfiguration></trt:Profiles><trt:Profiles token='sound'><tt:Name>sound</tt:Name></trt:Profiles></trt:GetProfilesResponse>";
    let two = "<tr2:GetProfilesResponse><tr2:Profiles token='p2'><tr2:Name>sub</tr2:Name><tr2:Configurations><tr2:VideoEncoder token='e'>\
               <tt:Encoding>H265</tt:Encoding><tt:Resolution><tt:Width>0</tt:Width><tt:Height>many</tt:Height></tt:Resolution></tr2:VideoEncoder>\
               </tr2:Configurations></tr2:Profiles></tr2:GetProfilesResponse>";
    let [main] = &profiles(&body(one))[..] else { panic!("one profile has video") };
    assert_eq!(
        (main.token.as_str(), main.name.as_str(), main.codec.as_deref()),
        ("Profile_1", "main & only", Some("h264"))
    );
    assert_eq!((main.width, main.height, main.frame_rate), (Some(1920), Some(1080), Some(25.0)));
    let [sub] = &profiles(&body(two))[..] else { panic!("one profile") };
    assert_eq!((sub.codec.as_deref(), sub.width, sub.height, sub.frame_rate), (Some("h265"), None, None, None));
}

#[test]
fn faults_tell_a_refusal_from_the_rest() {
    let twelve = |code: &str, text: &str| {
        fault(&body(&format!(
            "<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>{code}</s:Value></s:Subcode></s:Code>\
             <s:Reason><s:Text>{text}</s:Text></s:Reason></s:Fault>"
        )))
    };
    assert_eq!(twelve("ter:NotAuthorized", "x"), Some(SoapFault::Refused));
    assert_eq!(twelve("wsse:FailedAuthentication", "x"), Some(SoapFault::Refused));
    assert_eq!(
        twelve("ter:ActionNotSupported", "no\u{85}such action"),
        Some(SoapFault::Other("no such action".into()))
    );
    assert_eq!(
        fault(&body("<s:Fault><faultcode>x</faultcode><faultstring>Sender not authorized</faultstring></s:Fault>")),
        Some(SoapFault::Refused)
    );
    assert_eq!(fault(&body("<x/>")), None);
}

#[test]
fn the_devices_clock_is_read_unless_it_is_nonsense() {
    let clock = |month: u32| {
        clock(&body(&format!(
            "<r><tt:UTCDateTime><tt:Time><tt:Hour>7</tt:Hour><tt:Minute>50</tt:Minute><tt:Second>45</tt:Second></tt:Time>\
             <tt:Date><tt:Year>2010</tt:Year><tt:Month>{month}</tt:Month><tt:Day>16</tt:Day></tt:Date></tt:UTCDateTime></r>"
        )))
    };
    assert_eq!(clock(9).map(|t| t.to_string()).as_deref(), Some("2010-09-16T07:50:45Z"));
    assert_eq!(clock(13), None);
}

#[test]
fn only_rtsp_addresses_are_streams() {
    let uri = |text: &str| {
        stream_uri(&body(&format!(
            "<t:GetStreamUriResponse><m:MediaUri><tt:Uri>{text}</tt:Uri></m:MediaUri></t:GetStreamUriResponse>"
        )))
    };
    assert_eq!(uri(" rtsp://10.0.0.1/a?x=1&amp;y=2 ").unwrap().as_str(), "rtsp://10.0.0.1/a?x=1&y=2");
    for at in ["rtsp://10.0.0.1:554/a@b", "rtsp://camera/a?x=b@c"] {
        assert_eq!(uri(at).unwrap().as_str(), at, "no password can be meant");
    }
    for wrong in ["file:///etc/passwd", "rtsp:///a", "10.0.0.1", ""] {
        assert_eq!(uri(wrong), None, "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_fail(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz(&bytes);
    }

    /// Markup of real answers, cut, doubled and put together anew.
    #[test]
    fn no_scrambled_answer_makes_the_readers_fail(cuts in prop::collection::vec((0usize..1400, 0usize..200), 0..12), junk in "\\PC{0,20}") {
        let whole = answer(&format!("uuid:{}", Uuid::from_u128(1)), TYPES, "onvif://www.onvif.org/name/a%zz", "http://[::1/ http://10.0.0.1/");
        let mut text = whole.clone().into_bytes();
        for (at, length) in cuts {
            let at = at.min(text.len());
            let piece: Vec<u8> = whole.bytes().skip(at).take(length).chain(junk.bytes()).collect();
            text.splice(at..(at + length / 2).min(text.len()), piece);
        }
        fuzz(&text);
    }
}
