"""What the glyphs are made of: the characters, the families with their packages and checksums, and how many images.

The families of a split share no design with those of the other: how that was checked is in docs/guides/glyphs.md.
"""

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Family:
    """A typeface: all its faces are on one side of the split.

    Attributes:
        name: Of the family.
        package: Debian's package that has it.
        split: The side that it is on.
        folder: Of its files, below ``/usr/share/fonts``.
        faces: (file, SHA-256 of the file) of each face.
    """

    name: str
    package: str
    split: Split
    folder: str
    faces: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Recipe:
    """A data set of glyphs.

    Attributes:
        classes: One character each.
        families: What they are drawn in.
        train: Images of each class to train on.
        test: Images of each class to test on.
        seed: Of the choice of faces and of how each image is scaled, turned and moved.
        checksum: SHA-256 of what is drawn; None where nobody has drawn it yet.
        drawn_with: The versions that drew it so.
    """

    classes: tuple[str, ...]
    families: tuple[Family, ...]
    train: int
    test: int
    seed: int = 0
    checksum: str | None = None
    drawn_with: str = ""


# Latin, digits, Greek, Cyrillic, signs. What looks the same in many faces when its size is not seen is here once: A for
# A, Alpha and Cyrillic A; no o beside O. Cyrillic is in capitals, as its italic small letters look like Latin ones.
CLASSES = (
    "ABDEFGHJKLMNPQRTUYCOSVWXZ"
    "abdefghijmnqrty"
    "ßæœøþðđłŋıÆŒÞŁŧ"
    "áàâäãåāąéèêëēęěíìîïñńņóòôöõōőúùûüūůűųçćčďĝğĺľŕřśşšťýÿźżž"
    "ÁÄÅÊÑĘĞŘŤĎ"
    "123456789"
    "αβγδεζηθλμξπρσςτφψωάέήώΓΔΞΠΣΩ"
    "БДЖИЙЛФЦЧШЩЪЫЬЭЮЯЂЉЊЋЏЄҐЎ"
    '!?&@#$%*+/\\()[]{}<>=~^";:§¶©®™€£¥¢±×÷¬†‡…‰«»¿½¼¾¤≠≤≥≈∞√№'
)

# Only fonts of Debian 12 (main); docs/guides/glyphs.md has versions and licences.
FAMILIES = (
    Family("Agave", "fonts-agave", "train", "truetype/agave", (
        ("agave-r-autohinted.ttf", "b3c4262cb7185e075b5f79fe4cc86da91ebe49b43817f55ebb4366f5bdfea1f7"),
    )),
    Family("Anonymous Pro", "fonts-anonymous-pro", "train", "truetype/anonymous-pro", (
        ("Anonymous Pro.ttf", "6a3502f45cd580a77e61ac5eec75a7ea699c27e295596806b514d3a04d89165b"),
        ("Anonymous Pro B.ttf", "9d6c14c77acc27b5e0f741a8c35e5e747da1fea7e67d48cf0f7769337c247480"),
        ("Anonymous Pro I.ttf", "4edf8bccd2b5a6eac4427ca26047da43d47ea268483e7b06d4e870eff33f1123"),
    )),
    Family("C059", "fonts-urw-base35", "train", "opentype/urw-base35", (
        ("C059-Roman.otf", "e00cc7b88f0cf25ae43f0e48de39d0043fe042b55719a3ac32669ab3369542ec"),
        ("C059-Bold.otf", "75dea10068264324522e7b96612083582eee0158eb728fa9c219279890f33e26"),
        ("C059-Italic.otf", "77852deabd3a84f7d0213932239de522410309374c2255ccbd510f01dc7c6e80"),
    )),
    Family("Caslon", "fonts-georgewilliams", "train", "truetype/fonts-georgewilliams", (
        ("CaslonRoman.ttf", "db55e7581f8ddacffe9008a43fca9ad322cbb1972d0067e51ca10388427127c3"),
        ("CaslonBold.ttf", "f0e507fa460983af1de0408437dc34e0eb897911139acc442e7e61658dbf52af"),
    )),
    Family("Charis SIL", "fonts-sil-charis", "train", "truetype/charis", (
        ("CharisSIL-Regular.ttf", "346337374aa347d64ee015b26d441f1970d8631914e2f3941b00e1c4761e28c5"),
        ("CharisSIL-Bold.ttf", "68460d2b76c8f781b49f9168f2c7dc3c9f7b788a3a1b8f267c5fa6bb47d5c64d"),
        ("CharisSIL-Italic.ttf", "e776e2961117b39cf924c0139de01748a77b2fcb99c437b2c77bdd9401606c13"),
    )),
    Family("CMU Bright", "fonts-cmu", "train", "truetype/cmu", (
        ("cmunbmr.ttf", "afd2e0156e329cbdf869a7d308ddff41ae699460069618827f9aad452e547ff0"),
        ("cmunbbx.ttf", "5ec275a476b6f9a029765ecb41b4689cff7513b1a8313f70257ad4e78d759282"),
        ("cmunbmo.ttf", "1176a71fd7f4bd6881245dc19f53e6a997f4b9c8d3aec7442b271877b6afc3b9"),
    )),
    Family("CMU Concrete", "fonts-cmu", "train", "truetype/cmu", (
        ("cmunorm.ttf", "2941925fdf93c74940b436cd69b7d82d0409825c7df6794c8c5abfe52b72babd"),
        ("cmunobx.ttf", "bee4647ec46782ca6cdc89ba1364a6de5c479c42a6118c72de7b640e2d6c7d37"),
        ("cmunoti.ttf", "0a2848aae22a6e04b515fa0499bd1103fbd56de393e7688b90ab8ef659e12dcf"),
    )),
    Family("CMU Sans Serif", "fonts-cmu", "train", "truetype/cmu", (
        ("cmunss.ttf", "e0760f13b32ff4ed789ef14badc8995c780e052195c2b57f5661a079d0ab9d52"),
        ("cmunsx.ttf", "ae1647047d75535a48dbcb9bd1346261e786354bd590af9d39340d85ed7097fb"),
        ("cmunsi.ttf", "ebb2bc739e7ab8b4a779f6194003976db1f58bbb2d63245159fc72fdb246e932"),
    )),
    Family("CMU Serif", "fonts-cmu", "train", "truetype/cmu", (
        ("cmunrm.ttf", "cf2b28d1f36b680bc5851196c0da97d32ed564d8a703a9636f094092934babe6"),
        ("cmunbx.ttf", "82d500c7092f44de9de332b8ffdc16a6e7ce5b042832b7aa0203a6cea8f4f263"),
        ("cmunti.ttf", "0473b87393141b7ba311e8a590c568e8a82e29dc417574eb748c0093cce0911d"),
    )),
    Family("CMU Typewriter", "fonts-cmu", "train", "truetype/cmu", (
        ("cmuntt.ttf", "408c037330446e5f3225add1fcca336e2072c459deb39f5318390004a780de82"),
        ("cmuntb.ttf", "e488ed347793444ea4bbd187a0b9b8d7d09e48f96fd33437fe9e39b007425cbc"),
        ("cmunit.ttf", "b68ad49974986df848878c75aeb8af7a00d010367adf16381daaa430f8f0f867"),
    )),
    Family("DejaVu Sans", "fonts-dejavu-core", "train", "truetype/dejavu", (
        ("DejaVuSans.ttf", "abdc775b21b1bc470d50c97e790d276f2054b7504e56e5bd3e64f48d68582322"),
        ("DejaVuSans-Bold.ttf", "0d977336a6d5fba34eab8e3199eb218327161b5143749f802982c2bc34df0c96"),
    )),
    Family("DejaVu Sans Mono", "fonts-dejavu-core", "train", "truetype/dejavu", (
        ("DejaVuSansMono.ttf", "0f5db4f1749979d961019838b160bec74abdf7f9eca69553fe1aa856bbff49a4"),
        ("DejaVuSansMono-Bold.ttf", "2964f6dac8e6e9d71613928340f17bf868e9ea51692cca333c79e74962f02233"),
    )),
    Family("DejaVu Serif", "fonts-dejavu-core", "train", "truetype/dejavu", (
        ("DejaVuSerif.ttf", "13e61509f5c81d7c3132810f4f903e3523df89c802bf6e0674621e8f659cdfe1"),
        ("DejaVuSerif-Bold.ttf", "e2fd85eba2de65ac270d1cdb1685e252eb827f600850cf62af2d20c41b22e945"),
    )),
    Family("Fira Code", "fonts-firacode", "train", "truetype/firacode", (
        ("FiraCode-Regular.ttf", "bb7f3fc4bd68bbbb16b3bf204bc96d9ba7b4a1a6fc221bba49e2b2a03390e76c"),
        ("FiraCode-Bold.ttf", "6ea6702e0c6822df4ef6b6da231da8d368ac6b76895df75005b708c4a88662e1"),
        ("FiraCode-Light.ttf", "eb266ed8fdad1a8f66f3642c058e6bf2f54b2e0adf1ece900554e7df6d3720c2"),
    )),
    Family("FreeMono", "fonts-freefont-ttf", "train", "truetype/freefont", (
        ("FreeMono.ttf", "1175cc31865a2a1bf011a7711ddab98302343bd679181b360a0e845774c61ecf"),
        ("FreeMonoBold.ttf", "30b4b98748839431a366123f859871549b57e461a8b8ec2d3d65b55b2fb9f22d"),
        ("FreeMonoOblique.ttf", "e8d854cbb19b7f3b2d7cfc93c8ab31595de1b53f78bb81da595a700ae686e7e8"),
    )),
    Family("FreeSans", "fonts-freefont-ttf", "train", "truetype/freefont", (
        ("FreeSans.ttf", "0b602f2825b30f9faa772c2ca25b1ce05b6255c9bf02dd8ca088ae51f9f737bb"),
        ("FreeSansBold.ttf", "e8b93173d6d8214fb74a068663d3721fdca612bbf3f98973dddb7067b131a0cf"),
        ("FreeSansOblique.ttf", "31050ee870617c8c098167dd3df78cde65392abc04ed96fd9304d0b1421a68a9"),
    )),
    Family("FreeSerif", "fonts-freefont-ttf", "train", "truetype/freefont", (
        ("FreeSerif.ttf", "12ee050384c99c97a6873708a3aebde3d795de8d8ed069b1a0e3274ab3e5be03"),
        ("FreeSerifBold.ttf", "12bd953ceb1fa8c7d7386c3d026bd3b004bf07640d8603cc803db7ceb7d9fb99"),
        ("FreeSerifItalic.ttf", "3049ffb26ed8140c13e21d612d78e18ff3dc20123b85d1f7353a1564163a5e9b"),
    )),
    Family("Gentium Plus", "fonts-sil-gentiumplus", "train", "truetype/gentiumplus", (
        ("GentiumPlus-Regular.ttf", "845e06bb4673a908a5f3b3b4ac9f38841750a07faa9aa45bfcb5796893346f0b"),
        ("GentiumPlus-Bold.ttf", "716c4a16887550b13f40b408df5dad6c410c72a00867c5fe802a9ed483e3fb8d"),
        ("GentiumPlus-Italic.ttf", "18df1f3ddf09cf72338f25c45ca0d1922fb5e86cdd748522dbd6bede4fb1f99d"),
    )),
    Family("Hack", "fonts-hack", "train", "truetype/hack", (
        ("Hack-Regular.ttf", "9f67c8a8cd28498525639437d6fac588c452e8572945c790db7641cc7907a69b"),
        ("Hack-Bold.ttf", "21300a514e536d66e73f6d0f68f3820afbeadf58c21bcc5433052b46aacee27f"),
        ("Hack-Italic.ttf", "f62896805c87faafd05be5c40a17385de76b37bbd4e62a83c2cd79d25a6c9181"),
    )),
    Family("Liberation Mono", "fonts-liberation2", "train", "truetype/liberation2", (
        ("LiberationMono-Regular.ttf", "6b3809450cf6253b36d157198dc15004a5fbade9abad5543c377feb7bb29139c"),
        ("LiberationMono-Bold.ttf", "29534b0aad22fa386843365da6f04102df8d6a076e06a2a5ce270f83dd1bf351"),
        ("LiberationMono-Italic.ttf", "b35c3fc2f2d607782bcac01367f419a4a36d0fc48b2115ce6d17498343c3086e"),
    )),
    Family("Liberation Sans", "fonts-liberation2", "train", "truetype/liberation2", (
        ("LiberationSans-Regular.ttf", "8d91388f1d3604b3b8ae0e3ee2d140e50cd6122f9214514f4aca772540a4076d"),
        ("LiberationSans-Bold.ttf", "ba0e0dc3f7aca5b0afbc31e800531ee43be3aa79ae35b2ef1f6470a9547765c4"),
        ("LiberationSans-Italic.ttf", "01f559e5c501d3d5777647c6a92b3ff37a4523bcf4f3b6e97ae052af567618b1"),
    )),
    Family("Liberation Serif", "fonts-liberation2", "train", "truetype/liberation2", (
        ("LiberationSerif-Regular.ttf", "29d12439831b7f59194efec85872f24f54eff05738933f9a860220d2abff88ba"),
        ("LiberationSerif-Bold.ttf", "446a4421f297698427170fd7db20e59169a4188baaaf940e9bea58af6341a723"),
        ("LiberationSerif-Italic.ttf", "c1830c433ab41379f1139fac388989d37c9f08c81e1bd643efdcc7946db30753"),
    )),
    Family("Linux Biolinum", "fonts-linuxlibertine", "train", "opentype/linux-libertine", (
        ("LinBiolinum_R.otf", "f3cf97ba8cc3a511729bb3ff701d9ff038d94c4c72d2998ee9b40aece8d33f52"),
        ("LinBiolinum_RB.otf", "97679df5eabc6e870ac9c52660d39d6024e48b4aeda37bf0b5080bd85228f50b"),
        ("LinBiolinum_RI.otf", "bdade79be87ba1e9f53a9ec7e80f9ec5b55aeb16fb801646782c1620387661c9"),
    )),
    Family("Linux Libertine", "fonts-linuxlibertine", "train", "opentype/linux-libertine", (
        ("LinLibertine_R.otf", "057bbfa1ac76133c8ae596eff0baf1fd662b2b60e830e6d45cfec5d21489eda3"),
        ("LinLibertine_RB.otf", "56acd1e11373900e5420b9216f591a08050a9017284ac60ea56ddbaa53a58e02"),
        ("LinLibertine_RI.otf", "f0632ade6a312b8cc30c348837e9f72a0768a42fe1c1e1509651a0a1d03ba4ee"),
    )),
    Family("Monoid", "fonts-monoid", "train", "truetype/monoid", (
        ("Monoid-Regular.ttf", "66ab3e80ce2b2d55177a5b60d8e5cdbb7fed1b9d081becfc1efefdbb954a09b6"),
        ("Monoid-Bold.ttf", "a9c525ca4bab871b388a5d0daf67e6fde09913e145c40ddd429913e7af4fe68a"),
        ("Monoid-Italic.ttf", "2ebc3a398acb97504d025f9ced289ff9d9c363e49789a896b308c219f95e7ae2"),
    )),
    Family("P052", "fonts-urw-base35", "train", "opentype/urw-base35", (
        ("P052-Roman.otf", "f054a7389d8d0e9f4c5f7b4c21feb7e2b14bec8004a1e92778a78d149524eea9"),
        ("P052-Bold.otf", "ba6503baaf0f9e4e40a69cc4c0e57049fbde313fe183aba8fe823208337a94af"),
        ("P052-Italic.otf", "1feac6055211cf5c6c812c026e398195070f174064cc4d390f0db01647443b0e"),
    )),
    Family("Play", "fonts-play", "train", "truetype/play", (
        ("Play-Regular.ttf", "a16d8a926b82d5391cb041f928ac8a1597fc713e9bbb65e09f923b4990b58b22"),
        ("Play-Bold.ttf", "50210bae0799643632e199a2f798d5f844a6343e208c2bdd24d94526c55c111e"),
    )),
    Family("PT Sans", "fonts-paratype", "train", "truetype/paratype", (
        ("PTS55F.ttf", "3bbff9ab698453a4c705ec9ab9d8f528d21562a684bb6816f157163637eac914"),
        ("PTS75F.ttf", "576b59732fff967895eba1eed0fc5f8cdb069ea31fde878c0cdc36aa2d4615ef"),
        ("PTS56F.ttf", "12cf8874d07b5a3e290314ca575b980e5cb5742f42e7033e682b15b11531ad93"),
    )),
    Family("PT Serif", "fonts-paratype", "train", "truetype/paratype", (
        ("PTF55F.ttf", "d074251529defb38523f3d89cfadfc2491515b32c22f154a8fc6b4c184415a69"),
        ("PTF75F.ttf", "71a57caa616bec6f7266bddb176defd481f4edfca357123d4d3d8bb942b10f26"),
        ("PTF56F.ttf", "e2b2f71276ed2745ca137fef788246dcd381e88e66d9d23754112f51d73e05fc"),
    )),
    Family("Roboto", "fonts-roboto-unhinted", "train", "truetype/roboto/unhinted/RobotoTTF", (
        ("Roboto-Regular.ttf", "797e35f7f5d6020a5c6ea13b42ecd668bcfb3bbc4baa0e74773527e5b6cb3174"),
        ("Roboto-Bold.ttf", "36f3709dea3e3ce3c6aedc058079e55980825f898f1e901d091c73c40de8bab1"),
        ("Roboto-Italic.ttf", "5cd9337020d0b1593bae42dcca5cfc0fb86f5806ef469d66d09eae1e56ce346b"),
    )),
    Family("Roboto Slab", "fonts-roboto-slab", "train", "opentype/roboto/slab", (
        ("RobotoSlab-Regular.otf", "1ab154c4863f88a2481f4945591f9b630962daeb95a28a3efb3d84b8733e6f45"),
        ("RobotoSlab-Bold.otf", "f860d0a2b4323863d94f76d579d4ddb54048c87d07f3bff936f40c22d7cb49dd"),
    )),
    Family("STIX", "fonts-stix", "train", "opentype/stix", (
        ("STIXGeneral-Regular.otf", "5add3f3f2bd7fd897d2fa5ccbe468607c52111dc44cdfaaf2d851a574f5357a7"),
        ("STIXGeneral-Bold.otf", "7e4dfb4979e9bb79a0bdedc56f055eab615fb9a3dff8788a52992ae65e8f572d"),
        ("STIXGeneral-Italic.otf", "7f6bf9cab728febe4ce111bbfbcd16253806dcab0bbe1940ede2782cfc319a72"),
    )),
    Family("URW Bookman", "fonts-urw-base35", "train", "opentype/urw-base35", (
        ("URWBookman-Light.otf", "7b1bc8e6a16cef53785ce03d4848f8971f3ba38cd9e266e4786a50e08bd9235b"),
        ("URWBookman-Demi.otf", "ab8b2fe57cbea9783c6179188dc013c76cfc5717c22cf59bbf3016ef2d7d93ee"),
        ("URWBookman-LightItalic.otf", "ed722e6c2996b08e8516d27a7c017972cfabf5d1736b496b6526da78fd17691a"),
    )),
    Family("URW Gothic", "fonts-urw-base35", "train", "opentype/urw-base35", (
        ("URWGothic-Book.otf", "04318316cee29950805110c9c8949eea189ef5575132881f4d4d7e03e5299903"),
        ("URWGothic-Demi.otf", "5b009410cf5231dcb1e45b155c1afedcfc63d82042fd8c414d0dd7705c9fbbae"),
        ("URWGothic-BookOblique.otf", "ec4e947734950fd344918e560bc8ad0c5d8b17d0ab4853988824f13b9f77e53f"),
    )),
    Family("Z003", "fonts-urw-base35", "train", "opentype/urw-base35", (
        ("Z003-MediumItalic.otf", "a04947e59fc9339ea3c4b34c31fd46764f22af7512afc2c074ce190e79ed7a09"),
    )),
    Family("Cantarell", "fonts-cantarell", "test", "opentype/cantarell", (
        ("Cantarell-Regular.otf", "c4d47d7fbd61863265a39e4944331178337fb0d5d93b45a70233180b6b7df260"),
        ("Cantarell-Bold.otf", "027924588c05e5fb38717dee6e50562bcc2a89c21e713bb2434a7f454d0c4fa4"),
        ("Cantarell-Light.otf", "0a6f31b1536085af0d14f2bf5020f682a2fd5486cfb4c928e8186974eb948c31"),
    )),
    Family("Clear Sans", "fonts-clear-sans", "test", "truetype/clear-sans", (
        ("ClearSans-Regular.ttf", "bb811af889b6a3984944678f04b033a4805c49a66f06cde62ef29902e8f0f06f"),
        ("ClearSans-Bold.ttf", "e95b1274e575a12d4f9ed0293c359f92a2a1b73bda862b2432ecc567b330bfeb"),
        ("ClearSans-Italic.ttf", "ac2f34c28ea1f755f0660033f50f615c0a30b0f80763b73363cc142113136c43"),
    )),
    Family("Comfortaa", "fonts-comfortaa", "test", "truetype/comfortaa", (
        ("Comfortaa-Regular.ttf", "7aeecaf4c799f24f22e871a6f546ca89116cf11288c7a8ff42f11401dd5445c6"),
        ("Comfortaa-Bold.ttf", "0b82ab5fdba8e0147e38e89237ea4a430f0d7017c313d9b8e56a309acde756c0"),
        ("Comfortaa-Light.ttf", "6c7392e5bcb8b12441a2b2d3fbac08d598d1ec4cf66e4f6f7338b47c8bada638"),
    )),
    Family("EB Garamond", "fonts-ebgaramond", "test", "opentype/ebgaramond", (
        ("EBGaramond12-Regular.otf", "4ee3bdb3a6618e74ac13a7b2c0a5079fa949be94a25736008ddb9f8b2e492963"),
        ("EBGaramond12-Italic.otf", "ce6bf781c71358408102ebd62557ae11852f122364666bc034b2e70dcc972790"),
    )),
    Family("Fantasque Sans Mono", "fonts-fantasque-sans", "test", "truetype/fantasque-sans/Normal/TTF", (
        ("FantasqueSansMono-Regular.ttf", "5fa1f36afb10356186928d801941a059803a6c80a6a7b2fb71f1464494d18b67"),
        ("FantasqueSansMono-Bold.ttf", "42d91f68224ea7a2195670ebe31f7f125b8ab8802d71f511fd2a21f599fd1812"),
        ("FantasqueSansMono-Italic.ttf", "a72d3a18952ecdcc1b56bd4113551d6636677365f6072a050898e3785e676639"),
    )),
    Family("Go", "fonts-go", "test", "fonts-go", (
        ("Go-Regular.ttf", "dd02d2f04dbc9f6329f3777b999fd3985f70b8f69b7c8aa522db3ec1fef9ceb2"),
        ("Go-Bold.ttf", "47d5aab3f49d958dd3ab857691b84dfc0b49e143e0e6f37b62f3d3f312c14bf0"),
        ("Go-Italic.ttf", "51e880f8a40b39baf291a4ef4c27c9e2eb8c36cb640063f867d213db444195b3"),
    )),
    Family("Go Mono", "fonts-go", "test", "fonts-go", (
        ("Go-Mono.ttf", "19ecaf9dab2b499c62d2b586a48995789e6a862d39f0f79d3e96214792aef41d"),
        ("Go-Mono-Bold.ttf", "6569b68caad376df8fddad04b0c779d0c3f1858b7c4586b96e706da5d3c6edc8"),
        ("Go-Mono-Italic.ttf", "11fb74a49ddb08891e3893d48469e75a4544baf0b8aaf1a6b53539417f2333c4"),
    )),
    Family("JetBrains Mono", "fonts-jetbrains-mono", "test", "truetype/jetbrains-mono", (
        ("JetBrainsMono-Regular.ttf", "a3014fb90ae8ddfbdfc778de75f95b49a857947fde5335ab3f50b6d56eb517be"),
        ("JetBrainsMono-Bold.ttf", "3481028266ee80741bfa96beaa4ce2ea1c6beebf89979d3e64e039c4d83822d1"),
        ("JetBrainsMono-Italic.ttf", "1ad62eee7e5f5eeeec49584b5179f18af679b2b8cc42a80273b84b396e50577a"),
    )),
    Family("Jura", "fonts-jura", "test", "opentype/jura", (
        ("Jura-Regular.otf", "54ee2a9d8d95163cbfb2d774d594390bca710c65ff28e34781937fed6f0e66da"),
        ("Jura-Bold.otf", "1d851c391fd8fab54da67e0bf23c9775b3a465dc7bcde090fab95df7a0b5d7b2"),
    )),
    Family("Lato", "fonts-lato", "test", "truetype/lato", (
        ("Lato-Regular.ttf", "0ad460bd756454f8485609747b25c5644a54d307a65daabbb24c646c112ed541"),
        ("Lato-Bold.ttf", "e0b1c4de011de8dd077cf21f97919fc31158eb290ee1176cbae06d500a6304bc"),
        ("Lato-Italic.ttf", "bbc138d69289c5604474166e150d39995770ca98ffb9df02adb68666ec36cc37"),
    )),
    Family("Manrope", "fonts-manrope", "test", "truetype/manrope", (
        ("Manrope-Regular.ttf", "15515d2f4622d1d69a07c2abf0c8533d3bd7321afc2d2e16e6dbd8af635c56f0"),
        ("Manrope-Bold.ttf", "f6e7b96c6e5919ef4187cd5c4dfeff707776fd7076380e2b4655981b90ab8a10"),
    )),
    Family("Old Standard", "fonts-oldstandard", "test", "truetype/fonts-oldstandard", (
        ("OldStandard-Regular.ttf", "74916923e4f0c26a88d37de10e3b2f50ab26a8c6c369430f55e0574df8d713a5"),
        ("OldStandard-Bold.ttf", "fc1f8a96f54004afdcc5d92e995482d85fa50e5e2d6b8511ad5b8b4d9ca430ec"),
        ("OldStandard-Italic.ttf", "b49b08875736e850758def3405c4f14ef1488da005dfc4c2bc1ebb1873e09e47"),
    )),
    Family("Tuffy", "fonts-tuffy", "test", "truetype/tuffy", (
        ("Tuffy.ttf", "b97cd5005278b24aabb69b8b6ead98860955599558f6e8119483b575a5fdce98"),
        ("Tuffy_Bold.ttf", "ead68ba8bef71d5f6411f2a585dca28a15dc7e5b7729fd64b9faff05730ddfde"),
        ("Tuffy_Italic.ttf", "94313dc6018e1f9b39aec9c9e4dd7e603320d47d7b1f30ea24e111d7b9ef2fb6"),
    )),
    Family("Vollkorn", "fonts-vollkorn", "test", "truetype/vollkorn", (
        ("Vollkorn-Regular.ttf", "33c0e4742dbf693d8f6cda114c02bcf213c0edfb18f0350e483e9354bf9f0c9b"),
        ("Vollkorn-Bold.ttf", "e905eac2b4b6286bafe2c403656665ed455c899ba4e2de6a1fdfaa1d1a78eb0c"),
        ("Vollkorn-Italic.ttf", "9261dc54be8ee1c5d4c99c4ae8c51042aaafb370a81394f2f426469b94770b1b"),
    )),
)  # fmt: skip

RECIPE = Recipe(
    classes=tuple(CLASSES),
    families=FAMILIES,
    train=18,
    test=12,
    checksum="6a65df2193b3eff8f1f56b03d1abcc00cf90038a3ab56c582f347cdcad6eb885",
    drawn_with="Pillow 13.0.0, FreeType 2.14.3",
)
